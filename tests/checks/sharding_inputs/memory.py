"""Data is freed when nobody uses it any more, though TensorFlow has read it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import Batches, number_of_rows
from checks.sharding_inputs.kinds import linear, numbers

import hvdkit as hvd


def _train(sharded: hvd.ShardedData) -> None:
    model = linear()
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(sharded, validation_data=sharded, verbose=0, callbacks=[start])
    model.evaluate(sharded, verbose=0)
    model.predict(sharded, verbose=0)


def _read(sharded: hvd.ShardedData) -> None:
    for _ in sharded:
        pass
    for _ in sharded:
        break


def _arrays(x: np.ndarray, y: np.ndarray) -> tuple[hvd.ShardedData, Any]:
    return hvd.shard((x, y), BATCH), x


def _mapped_arrays(x: np.ndarray, y: np.ndarray) -> tuple[hvd.ShardedData, Any]:
    return hvd.shard((x, y), BATCH, map=lambda a, b: (2 * a, b)), x


def _pydataset(x: np.ndarray, y: np.ndarray) -> tuple[hvd.ShardedData, Any]:
    batches = Batches(x, y, workers=2)
    return hvd.shard(batches), batches


def _dataset(x: np.ndarray, y: np.ndarray) -> tuple[hvd.ShardedData, Any]:
    samples = tf.data.Dataset.from_tensor_slices((x, y))
    return hvd.shard(samples, BATCH, shuffle=True), samples


@long
def check_data_is_freed_after_its_last_use() -> None:
    _require_freed(
        (_arrays, _train),
        (_arrays, _read),
        (_pydataset, _read),
        (_dataset, _read),
        (_mapped_arrays, _read),
    )


@long
def check_a_pydataset_is_freed_after_training() -> None:
    _require_freed((_pydataset, _train))


def _require_freed(*cases: tuple[Callable[..., Any], Callable[..., None]]) -> None:
    rows = number_of_rows(1)
    for form, use in cases:
        sharded, owner = form(numbers(rows, 4), numbers(rows, 1))
        kept = weakref.ref(owner)
        source = weakref.ref(sharded.source)
        use(sharded)
        del sharded, owner
        gc.collect()
        assert kept() is None, f"{form.__name__} is kept by {gc.get_referrers(kept())}"
        assert source() is None, form.__name__
