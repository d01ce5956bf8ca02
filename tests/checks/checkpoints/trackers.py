"""Metrics that Keras does not list are saved, too, and files that lack them can be read."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.marks import long

import hvdkit as hvd
from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.running_metrics import metric_variables, restore_metrics
from hvdkit.checkpoint.variables import PATHS, copies, paths


class _Inner(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.tracker = keras.metrics.Mean(name="inner")


class _Outer(keras.Model):
    """Keras lists only one of its three metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Inner()
        self.listed = keras.metrics.Mean(name="listed")
        self.unlisted = keras.metrics.Mean(name="unlisted")

    @property
    def metrics(self) -> list[Any]:
        return [self.listed]


def _model(value: float) -> _Outer:
    model = _Outer()
    for number, metric in enumerate((model.listed, model.unlisted, model.inner.tracker)):
        metric.update_state(value + number)
    return model


def _results(model: _Outer) -> list[float]:
    return [float(m.result()) for m in (model.listed, model.unlisted, model.inner.tracker)]


@long
def check_trackers_that_keras_does_not_list_go_on() -> None:
    groups = {"metrics": metric_variables(_model(1.0))}
    own = Contents(copies(groups), {PATHS: paths(groups)})
    model = _model(7.0)
    restore_metrics(model, own, "here", lambda: pytest.fail("they all have their variables"))
    np.testing.assert_array_equal(_results(model), [1.0, 2.0, 3.0])


def check_files_that_lack_them_can_be_read() -> None:
    groups = {"metrics": metric_variables(_model(1.0))[:2]}
    own = Contents(copies(groups), {PATHS: paths(groups)})
    model = _model(7.0)
    restore_metrics(model, own, "here", lambda: pytest.fail("they all have their variables"))
    np.testing.assert_array_equal(_results(model), [1.0, 8.0, 9.0])
    groups = {"metrics": metric_variables(_model(1.0))[:4]}
    own = Contents(copies(groups), {PATHS: paths(groups)})
    with pytest.raises(hvd.checkpoint.CheckpointError, match="has 4 variables"):
        restore_metrics(model, own, "here", lambda: None)
