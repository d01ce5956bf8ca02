"""What can't be right is refused on every rank, by name; and configs make the same again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.compression.methods import METHODS, variables_of
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast, ErrorFeedback, Int8, OneBit, PowerSGD, TopK


def _require_refused(make: Callable[[], Any], kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))


def _optimizer(optimizer: Any, aggregator: Any) -> Any:
    return hvd.DistributedOptimizer(optimizer, exchange=AllReduce(aggregator))


def check_arguments() -> None:
    for make, parts in (
        (lambda: PowerSGD(rank=0), ["rank"]),
        (lambda: PowerSGD(start_step=-1), ["start_step"]),
        (lambda: PowerSGD(min_compression=0), ["min_compression"]),
        (lambda: TopK(ratio=0), ["ratio"]),
        (lambda: TopK(ratio=2), ["ratio"]),
        (lambda: TopK(momentum=1.0), ["momentum"]),
        (lambda: TopK(nesterov=True), ["nesterov"]),
        (lambda: TopK(warmup_steps=-1), ["warmup_steps"]),
        (lambda: Int8(block=0), ["block"]),
        (lambda: Int8(rounding="up"), ["rounding"]),
        (lambda: ErrorFeedback(PowerSGD()), ["PowerSGD", "of its own"]),
        (lambda: ErrorFeedback(ErrorFeedback(OneBit())), ["of its own"]),
        (lambda: AllReduce(PowerSGD(), op=hvd.Sum), ["PowerSGD", "op"]),
        (lambda: AllReduce(TopK(), gradient_predivide_factor=2.0), ["gradient_predivide_factor"]),
        (lambda: AllReduce(op=hvd.Adasum, compression=OneBit()), ["Adasum", "OneBit"]),
        (lambda: AllReduce(op=hvd.Adasum, gradient_predivide_factor=2.0), ["Average"]),
    ):
        _require_refused(make, ValueError, *parts)
    for make, parts in (
        (lambda: AllReduce(OneBit()), ["codec", "compression="]),
        (lambda: AllReduce(compression=Int8()), ["Int8", "aggregator", "AllReduce(Int8(...))"]),
        (lambda: ErrorFeedback("fp16"), ["fp16"]),
    ):
        _require_refused(make, TypeError, *parts)


def check_momentum_in_two_places() -> None:
    for inner in (optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(), optimizers.Lion()):
        kind = type(inner).__name__
        _require_refused(lambda o=inner: _optimizer(o, TopK(momentum=0.9)), ValueError, kind)
    scaled = optimizers.LossScaleOptimizer(optimizers.SGD(0.1, momentum=0.9))
    _require_refused(lambda: _optimizer(scaled, TopK(momentum=0.9)), ValueError, "SGD")
    _optimizer(optimizers.SGD(0.1), TopK(momentum=0.9))
    _optimizer(optimizers.Adam(), TopK())


def check_tapes() -> None:
    variable = keras.Variable(np.ones((8, 8)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable.value)
    wrapped = hvd.DistributedGradientTape(tape, exchange=AllReduce(PowerSGD()))
    _require_refused(lambda: wrapped.gradient(loss, [variable]), ValueError, "variables of its own")


def check_other_settings_on_other_ranks() -> None:
    (variable,) = variables_of([(8, 8)])
    optimizer = _optimizer(optimizers.SGD(0.1), PowerSGD(rank=hvd.rank() + 1))
    optimizer.build([variable])
    _require_refused(
        lambda: optimizer.apply([tf.ones([8, 8])]),
        hvd.RankMismatchError,
        "rank=1 on rank 0",
        "rank=2 on rank 1",
    )


def check_configs_make_the_same() -> None:
    inside = [make() for make in METHODS.values()]
    for aggregator in (*inside, ErrorFeedback(hvd.Compression.fp16), Int8(seed=3)):
        exchange = AllReduce(aggregator)
        stored = keras.saving.serialize_keras_object(exchange)
        again = keras.saving.deserialize_keras_object(stored)
        assert again.get_config() == exchange.get_config()
    own = AllReduce(ErrorFeedback(Plain()))
    assert "Plain" in str(own.get_config())
    _require_refused(lambda: AllReduce.from_config(own.get_config()), ValueError, "ErrorFeedback")


class Plain(Cast):
    """A codec without a config."""

    get_config = property()  # type: ignore[assignment]  # no attribute

    def __init__(self) -> None:
        super().__init__("float16")
