"""Which rows a rank reads, without a model."""

from __future__ import annotations

import numpy as np
from checks.reference import BATCH
from checks.sharding.reference import number_of_rows

import hvdkit as hvd


def check_every_row_once_and_equal_numbers_of_batches() -> None:
    for extra in range(hvd.size() * BATCH):
        rows = number_of_rows(extra)
        shard = hvd.shard((np.arange(rows), np.arange(rows)), BATCH, seed=5)
        seen, batches = [], 0
        for x, _y, weights in shard:
            batches += 1
            seen += x.numpy()[weights.numpy() > 0].tolist()
        everyone = hvd.allgather_object((seen, batches))
        assert sorted(i for own, _ in everyone for i in own) == list(range(rows))
        assert len({count for _, count in everyone}) == 1
        assert everyone[0][1] == len(shard)


def check_reshuffles_each_epoch_alike() -> None:
    rows = number_of_rows(0)
    shard = hvd.shard(np.arange(rows), BATCH, seed=5)
    epochs = [[i for x, _ in shard for i in x.numpy()] for _ in range(2)]
    assert epochs[0] != epochs[1]
    again = hvd.shard(np.arange(rows), BATCH, seed=5)
    again.set_epoch(1)
    assert [i for x, _ in again for i in x.numpy()] == epochs[1]


def check_drop() -> None:
    rows = number_of_rows(BATCH - 1)
    shard = hvd.shard(np.arange(rows), BATCH, remainder="drop")
    own = [x.numpy().tolist() for x in shard]
    assert [len(batch) for batch in own] == [BATCH] * 3
    seen = [i for batches in hvd.allgather_object(own) for batch in batches for i in batch]
    assert len(set(seen)) == len(seen) == 3 * BATCH * hvd.size()
