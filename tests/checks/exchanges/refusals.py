"""Exchanges that can't be right are refused, on every rank, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.exchanges.kinds import ErrorFeedback, LocalSteps, ShardedRows, Signs
from keras import optimizers

import hvdkit as hvd
from hvdkit.engine.process_sets import process_set_of_ranks
from hvdkit.exchange import AllReduce, Summed


def _optimizer(exchange: Any, **options: Any) -> Any:
    return hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange, **options)


def _gradient(exchange: Any) -> Any:
    variable = keras.Variable(1.0)
    with tf.GradientTape() as tape:
        loss = 2.0 * variable.value
    return hvd.DistributedGradientTape(tape, exchange=exchange).gradient(loss, variable)


def check_what_is_no_exchange() -> None:
    class Half:
        ranks = hvd.global_process_set

        def gradients(self) -> None: ...

    for make, parts in (
        (lambda: _optimizer(AllReduce), ["exchange=AllReduce(...)"]),
        (lambda: _optimizer("fp16"), ["str", "weights"]),
        (lambda: _optimizer(Half()), ["Half", "build, weights, owned, agreed_by, get_config"]),
        (lambda: _optimizer(ErrorFeedback()), ["AllReduce(ErrorFeedback(...))"]),
        (lambda: _optimizer(Signs()), ["AllReduce(compression=Signs)"]),
        (lambda: _optimizer(hvd.Compression.fp16), ["AllReduce(compression=FP16Compressor)"]),
        (lambda: AllReduce(Signs()), ["Signs", "aggregate()"]),
        (lambda: AllReduce(compression="fp16"), ["hvd.Compression.none", "fp16"]),
    ):
        _require_refused(make, TypeError, parts)


def check_two_ways_at_once() -> None:
    fp16 = hvd.Compression.fp16
    for make, parts in (
        (lambda: _optimizer(LocalSteps(), op=hvd.Sum), ["op=", "LocalSteps"]),
        (
            lambda: _optimizer(AllReduce(), compression=fp16, groups=2),
            ["compression=, groups= are arguments", "AllReduce(compression=..., groups=...)"],
        ),
        (lambda: AllReduce(ErrorFeedback(), op=hvd.Sum), ["ErrorFeedback", "op"]),
        (
            lambda: AllReduce(ErrorFeedback(), compression=fp16, gradient_predivide_factor=2.0),
            ["compression and gradient_predivide_factor"],
        ),
        (lambda: AllReduce(op=hvd.Max), ["Average"]),
        (lambda: AllReduce(groups=-1), ["groups"]),
    ):
        _require_refused(make, ValueError, parts)


def check_tapes_take_no_exchange_with_a_memory() -> None:
    np.testing.assert_allclose(_gradient(AllReduce(compression=hvd.Compression.bf16)), 2.0)
    for exchange, part in (
        (LocalSteps(), "LocalSteps works on weights"),
        (AllReduce(ErrorFeedback()), "variables of its own"),
    ):
        _require_refused(
            lambda e=exchange: _gradient(e), ValueError, [part, "hvd.DistributedOptimizer"]
        )


def check_slots_that_were_made_for_all_variables() -> None:
    optimizer = optimizers.SGD(1.0)
    optimizer.build([keras.Variable(np.ones((2 * hvd.size(), 2)))])
    _require_refused(
        lambda: hvd.DistributedOptimizer(optimizer, exchange=ShardedRows()),
        ValueError,
        ["exchange=ShardedRows", "before it is built"],
    )


def check_other_exchanges_on_other_ranks() -> None:
    first = hvd.rank() == 0
    for exchange, parts in (
        (LocalSteps(2 if first else 3), ["every=2 on rank 0", "every=3 on rank 1"]),
        (AllReduce() if first else LocalSteps(), ["AllReduce on rank 0", "LocalSteps on rank 1"]),
        (
            AllReduce(compression=hvd.Compression.fp16 if first else hvd.Compression.none),
            ["compression=fp16 on rank 0", "compression=none on rank 1"],
        ),
    ):
        variable = keras.Variable([1.0])
        optimizer = _optimizer(exchange)
        optimizer.build([variable])
        _require_refused(
            lambda o=optimizer: o.apply([tf.constant([1.0])]), hvd.RankMismatchError, parts
        )


def _require_refused(make: Callable[[], Any], kind: type[Exception], parts: list[str]) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))


def check_an_aggregator_of_two_exchanges() -> None:
    if hvd.size() == 1:
        return
    shared = Summed()
    some = process_set_of_ranks([0])
    _optimizer(AllReduce(shared)).build([keras.Variable(1.0)])
    other = _optimizer(AllReduce(shared, process_set=some))
    _require_refused(
        lambda: other.build([keras.Variable(1.0)]), ValueError, ["Summed", "different ranks"]
    )


def check_an_exchange_that_was_made_before_the_mesh() -> None:
    if hvd.size() % 2:
        return
    before = AllReduce()
    hvd.set_mesh(hvd.Mesh(data=hvd.size() // 2, tensor=2))
    _require_refused(lambda: _optimizer(before), ValueError, ["AllReduce", "after hvd.set_mesh"])
    _optimizer(AllReduce()).build([keras.Variable(1.0)])
    hvd.set_mesh(None)
