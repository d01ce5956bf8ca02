"""Local steps that can't be right are refused, on every rank, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.rounds.steps import gradients, variables
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Delayed, LocalSGD


def _built(optimizer: Any, exchange: Any) -> Any:
    distributed = hvd.DistributedOptimizer(optimizer, exchange=exchange)
    distributed.build(variables())
    return distributed


def _refused(make: Callable[[], Any], *parts: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))


def check_arguments_out_of_range() -> None:
    for every in (0, -1, 1.5, True, {}, {"x": 0}, "2", None):
        _refused(lambda e=every: LocalSGD(e), "every", repr(every))
    _refused(lambda: LocalSGD({"(": 2}), "(", "pattern")
    _refused(lambda: LocalSGD(2, start=-1), "start")
    _refused(lambda: LocalSGD(2, slots="reset"), '"own" or "average"', "reset")
    _refused(lambda: LocalSGD(2, weights="batches"), "rows", "batches")
    built = optimizers.SGD()
    built.build(variables())
    _refused(lambda: LocalSGD(2, outer=built), "built already")
    ema = optimizers.SGD(use_ema=True, gradient_accumulation_steps=2)
    _refused(lambda: LocalSGD(2, outer=ema), "gradient_accumulation_steps, use_ema")
    scaled = optimizers.LossScaleOptimizer(optimizers.SGD())
    _refused(lambda: LocalSGD(2, outer=scaled), "LossScaleOptimizer")
    _refused(lambda: Delayed(2), "0 or 1", "2")
    _refused(lambda: Delayed(exchange=LocalSGD(2)), "LocalSGD", "weights")


def check_optimizers_that_keep_weights_in_slots() -> None:
    _refused(lambda: _built(optimizers.Ftrl(), LocalSGD(2)), "Ftrl")
    _refused(lambda: _built(optimizers.Adafactor(), LocalSGD(2, slots="average")), "Adafactor")
    if hasattr(optimizers, "ScheduleFreeAdamW"):
        free = optimizers.ScheduleFreeAdamW
        _refused(lambda: _built(free(), LocalSGD(2)), 'slots="average"')
        both = LocalSGD(2, slots="average", outer=optimizers.SGD())
        _refused(lambda: _built(free(), both), "outer")


def check_patterns() -> None:
    _refused(lambda: _built(optimizers.SGD(), LocalSGD({"weight0": 2})), "weight1", '".*"')
    optimizer = _built(optimizers.SGD(), LocalSGD({"wieght": 2, ".*": 3}))
    _refused(lambda: optimizer.apply([tf.constant(g) for g in gradients(0)]), "wieght")


def check_other_groups_on_other_ranks() -> None:
    if hvd.size() == 1:
        return
    name = "late" if hvd.rank() else "early"
    pair = [keras.Variable([1.0], name=name), keras.Variable([1.0], name="early")]
    exchange = LocalSGD({"early": 2, ".*": 3})
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(), exchange=exchange)
    optimizer.build([*pair, keras.Variable([1.0], name="other")])
    _refused(
        lambda: optimizer.apply([tf.constant([1.0])] * 3),
        "meet together",
        kind=hvd.RankMismatchError,
    )


def check_other_settings_on_other_ranks() -> None:
    if hvd.size() == 1:
        return
    first = hvd.rank() == 0
    for exchange, part in (
        (LocalSGD(2 if first else 3), "every=2 on rank 0"),
        (LocalSGD(2, outer=optimizers.SGD(0.7 if first else 0.5)), "learning_rate"),
        (Delayed(1 if first else 0), "steps=1 on rank 0"),
        (Delayed() if first else AllReduce(), "Delayed on rank 0"),
    ):
        optimizer = _built(optimizers.SGD(), exchange)
        _refused(
            lambda o=optimizer: o.apply([tf.constant(g) for g in gradients(0)]),
            part,
            kind=hvd.RankMismatchError,
        )


def check_configs_make_the_same_exchange() -> None:
    outer = optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    for exchange in (
        LocalSGD(4),
        LocalSGD({"a": 1, ".*": 8}, start=10, outer=outer, slots="average", weights="rows"),
        Delayed(),
        Delayed(0, AllReduce(op=hvd.Sum)),
    ):
        stored = keras.saving.serialize_keras_object(exchange)
        again = keras.saving.deserialize_keras_object(stored)
        assert type(again) is type(exchange)
        assert again.get_config() == exchange.get_config()
