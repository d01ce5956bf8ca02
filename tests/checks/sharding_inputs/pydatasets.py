"""keras.utils.PyDataset: each rank asks it for batches of its own."""

from __future__ import annotations

import numpy as np
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import (
    Batches,
    compare,
    global_batches,
    labelled_rows,
    number_of_rows,
)

import hvdkit as hvd


def _compare_batches(extra: int, workers: int) -> None:
    x, y = labelled_rows(number_of_rows(extra))
    shard = hvd.shard(Batches(x, y, workers=workers), shuffle=False)
    compare(global_batches(x, y), shard, epochs=1)


@long
def check_pydataset() -> None:
    _compare_batches(BATCH + 1, workers=3)


@long
def check_pydataset_of_full_batches_and_of_one_row_more() -> None:
    _compare_batches(0, workers=3)
    _compare_batches(1, workers=1)


@long
def check_pydataset_shuffled_reads_every_row_once() -> None:
    rows = number_of_rows(1)
    numbers = np.arange(rows)
    shard = hvd.shard(Batches(numbers, numbers), seed=2)
    own = [i for x, _, w in shard for i in x.numpy()[w.numpy() > 0]]
    everything = [i for other in hvd.allgather_object(own) for i in other]
    assert sorted(everything) == list(range(rows)) != everything
