"""Weights that layers update by themselves and that are no statistics."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from checks.agreement.at_start import START, fit
from checks.marks import long

import hvdkit as hvd

L = keras.layers


class Last(L.Layer):
    """Remembers the last row, and the mean of all rows."""

    def build(self, shape: Any) -> None:
        self.last = self.add_weight(shape=(1,), trainable=False, name="last_row")
        self.mean = self.add_weight(shape=(1,), trainable=False, name="moving_mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.last.assign(x[-1, :1])
            self.mean.assign(0.5 * self.mean + 0.5 * keras.ops.mean(x[:, :1], axis=0))
        return x


class OwnLast(Last):
    hvd_over_ranks: ClassVar = {"last_row": "own"}


class AveragedLast(Last):
    hvd_over_ranks = "average"


@contextmanager
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hvdkit").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("hvdkit").removeHandler(handler)


def _train(layer: L.Layer, **options: Any) -> tuple[keras.Model, list[str]]:
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([L.Input((6,)), layer, L.BatchNormalization(), L.Dense(2)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    check = hvd.callbacks.ConsistencyCheck(every_n_epochs=1)
    with logged() as lines:
        fit(model, START(0), check, **{"epochs": 2, **options})
    return model, [line for line in lines if "averaged" in line]


def _values(variable: Any) -> list[float]:
    return [float(v) for v in hvd.allgather_object(np.asarray(variable).item())]


@long
def check_what_may_be_no_statistic_is_said_once_by_name() -> None:
    layer = Last(name="memory")
    _, said = _train(layer)
    assert len(set(_values(layer.last))) == 1
    if hvd.rank() == 0:
        (line,) = said
        assert "memory/last_row" in line
        assert "moving_mean" not in line
        assert 'hvd_over_ranks = "own"' in line
    else:
        assert not said


@long
def check_a_layer_keeps_its_own_where_it_says_so() -> None:
    layer = OwnLast()
    _, said = _train(layer)
    assert len(set(_values(layer.last))) == hvd.size()
    assert len(set(_values(layer.mean))) == 1
    assert not said
    layer = AveragedLast()
    _, said = _train(layer)
    assert len(set(_values(layer.last))) == 1
    assert not said


def check_other_words_are_refused() -> None:
    layer = Last()
    layer.hvd_over_ranks = "sum"
    with pytest.raises(ValueError, match='hvd_over_ranks is "own", "average"'):
        _train(layer)


@long
def check_frozen_statistics_are_compared() -> None:
    """Nothing changes them, so ranks that hold others would stay apart."""
    keras.utils.set_random_seed(0)
    frozen = L.BatchNormalization(trainable=False)
    model = keras.Sequential([L.Input((6,)), frozen, L.Dense(2)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    frozen.moving_mean.assign(frozen.moving_mean + float(hvd.rank()))
    with pytest.raises(hvd.RankMismatchError, match="moving_mean by at most"):
        fit(model)
    fit(model, START(0))
    assert float(frozen.moving_mean[0]) == 0.0
