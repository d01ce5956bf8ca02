"""Which rows a rank reads, without a model."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import number_of_rows

import hvdkit as hvd
from hvdkit.keras_internals import TFEpochIterator


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


@long
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


def check_plain_data_is_not_autotuned_on_several_ranks() -> None:
    class Rows(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((2, 3))

    def is_tuned(data) -> bool:
        """Whether what `fit` reads in an epoch is; also in the next one."""
        strategy = tf.distribute.get_strategy()
        epochs = TFEpochIterator(x=data, batch_size=2, distribute_strategy=strategy)
        read = []
        for _ in range(2):
            iter(epochs)
            read.append(epochs._get_iterator())
        assert read[0] is read[1]
        return read[1].options().autotune.enabled is not False

    rows = np.zeros((4, 3))
    assert is_tuned(tf.data.Dataset.from_tensors(rows))
    for plain in (rows, Rows(), ((batch,) for batch in [rows])):
        assert is_tuned(plain) == (hvd.size() == 1), type(plain)
