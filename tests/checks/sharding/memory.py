"""Data is freed when nobody uses it any more, though TensorFlow has read it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import tensorflow as tf
from checks.reference import BATCH
from checks.sharding.kinds import linear, numbers
from checks.sharding.reference import Batches, number_of_rows

import hvdkit as hvd


def _use(sharded: hvd.ShardedData) -> None:
    model = linear()
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(sharded, validation_data=sharded, verbose=0, callbacks=[start])
    model.evaluate(sharded, verbose=0)
    model.predict(sharded, verbose=0)
    for _ in sharded:
        pass
    for _ in sharded:
        break


def _forms(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    samples = tf.data.Dataset.from_tensor_slices((x, y))
    return {
        "arrays": (hvd.shard((x, y), BATCH), x),
        "PyDataset": (hvd.shard(loaded := Batches(x, y, workers=2)), loaded),
        "dataset": (hvd.shard(samples, BATCH, shuffle=True), samples),
        "map": (hvd.shard((x, y), BATCH, map=lambda a, b: (2 * a, b)), x),
        "padded": (hvd.shard(padded := samples.padded_batch(BATCH)), padded),
    }


def check_data_is_freed_after_its_last_use() -> None:
    rows = number_of_rows(1)
    for name in _forms(numbers(rows, 4), numbers(rows, 1)):
        sharded, owner = _forms(numbers(rows, 4), numbers(rows, 1))[name]
        kept = weakref.ref(owner)
        source = weakref.ref(sharded.source)
        _use(sharded)
        del sharded, owner
        gc.collect()
        assert kept() is None, f"{name} is kept by {gc.get_referrers(kept())}"
        assert source() is None, name
