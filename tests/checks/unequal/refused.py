"""What weights can't be, or can't be for: an error on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import Batches, classifier, compiled, labelled_rows
from checks.unequal.kinds import KINDS, global_batch, weights

import hvdkit as hvd


def _data() -> tuple[np.ndarray, np.ndarray]:
    return labelled_rows(2 * global_batch())


def _refused(
    error: type[Exception], text: str, call: Callable[..., Any], *args: Any, **options: Any
) -> None:
    """All ranks get it, or the next exchange would not fit."""
    with pytest.raises(error, match=text):
        call(*args, **options)
    assert hvd.allgather_object(hvd.rank()) == list(range(hvd.size()))


def check_what_is_no_weights() -> None:
    x, y = _data()
    size = hvd.size()
    for error, text, given in (
        (ValueError, "that of rank 0 is 0", [0] * size),
        (ValueError, "that of rank 0 is -1", [-1] * size),
        (ValueError, "that of rank 0 is nan", [float("nan")] * size),
        (ValueError, "that of rank 0 is inf", np.full(size, np.inf)),
        (ValueError, f"weights has {size + 1} numbers for {size} ranks", [1] * (size + 1)),
        (ValueError, f"weights has 0 numbers for {size} ranks", []),
        (TypeError, "not 'fast'", "fast"),
        (TypeError, "one positive number for each rank", 2),
        (TypeError, "one positive number for each rank", {0: 1}),
        (TypeError, "one positive number for each rank", ["2"] * size),
        (TypeError, "one positive number for each rank", [True] * size),
        (TypeError, "one positive number for each rank", np.ones([size, 1])),
    ):
        _refused(error, text, KINDS["arrays"], x, y, weights=given)


def check_what_differs_between_ranks() -> None:
    if hvd.size() == 1:
        return
    x, y = _data()
    own = [1 + hvd.rank(), *weights()[1:]]
    _refused(hvd.RankMismatchError, "weights", KINDS["arrays"], x, y, weights=own)
    own = "measured" if hvd.rank() else weights()
    _refused(hvd.RankMismatchError, "weights", KINDS["arrays"], x, y, weights=own)
    own = [0] * hvd.size() if hvd.rank() else weights()
    _refused(ValueError, "that of rank 0 is 0", KINDS["arrays"], x, y, weights=own)


def check_batches_that_ranks_take_whole() -> None:
    if hvd.size() == 1:
        return
    x, y = _data()
    ragged = tf.data.Dataset.from_tensor_slices((x, y)).padded_batch(3, ([None], []))
    for given in (weights(), "measured"):
        _refused(
            ValueError,
            "each rank takes whole",
            lambda given=given: hvd.shard(ragged, weights=given),
        )
        _refused(
            ValueError,
            "of a PyDataset each rank takes whole",
            hvd.shard,
            Batches(x, y),
            weights=given,
        )


@long
def check_what_can_not_be_measured() -> None:
    if hvd.size() == 1:
        return
    data = KINDS["arrays"](*_data(), weights="measured")
    _refused(ValueError, "in a loop of your own", next, iter(data))
    _refused(ValueError, "as a tf.data.Dataset", lambda: data.element_spec)
    model = compiled(classifier(0), hvd.DistributedOptimizer("sgd"), jit_compile=True)
    _refused(ValueError, "XLA compiles", model.fit, data, verbose=0)


def check_a_loss_that_is_no_mean() -> None:
    if hvd.size() == 1:
        return
    for given in (weights(), "measured"):
        data = KINDS["arrays"](*_data(), weights=given)
        model = classifier(0)
        loss = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
        model.compile(hvd.DistributedOptimizer("sgd"), loss=loss)
        _refused(ValueError, "gives the ranks unequal rows", model.fit, data, verbose=0)


def check_ranks_that_do_not_go_in_step() -> None:
    if hvd.size() == 1 or not hvd.mpi_enabled():
        return
    exchange = hvd.exchange.ParameterServer(servers=1)
    model = compiled(classifier(0), hvd.DistributedOptimizer("sgd", exchange=exchange))
    data = hvd.shard(_data(), BATCH, weights=weights())
    _refused(NotImplementedError, "for ranks that go in step", model.fit, data, verbose=0)


@long
def check_micro_batches() -> None:
    if hvd.size() == 1:
        return
    data = hvd.shard(_data(), BATCH, weights=weights())
    parts = hvd.parallel.split(classifier(0), ["CPU:0"] * 2, micro_batches=2)
    compiled(parts, hvd.DistributedOptimizer("sgd"))
    _refused(ValueError, "can't be divided into the micro_batches=2", parts.fit, data)
