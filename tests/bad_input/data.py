"""Data that can't be divided over the ranks."""

import sys

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd


class Batches(keras.utils.PyDataset):
    """One batch."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        return np.ones((4, 2)), np.ones((4, 1))


hvd.init()
rows = np.ones((8, 2))
few = rows[: hvd.size() - 1]
cases = {
    "batch_size_0": lambda: hvd.shard(rows, batch_size=0),
    "batch_size_negative": lambda: hvd.shard(rows, batch_size=-4),
    "batch_size_float": lambda: hvd.shard(rows, batch_size=2.5),
    "batch_size_none": lambda: hvd.shard(rows),
    "batch_size_0_dataset": lambda: hvd.shard(tf.data.Dataset.from_tensor_slices(rows), 0),
    "batch_size_on_one_rank": lambda: hvd.shard(rows, -1 if hvd.rank() == 1 else 2),
    "few_rows": lambda: hvd.shard(few, 2),
    "few_rows_dataset": lambda: hvd.shard(tf.data.Dataset.from_tensor_slices(few), 2),
    "few_batches": lambda: hvd.shard(Batches()),
}
*before, last = sys.argv[1].split(",")
for name in before:
    try:
        cases[name]()
    except (ValueError, TypeError) as error:
        print(f"refused {name}: {error}", flush=True)
    else:
        raise SystemExit(f"{name} was not refused")
cases[last]()
