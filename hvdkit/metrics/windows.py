"""Means of a model's metrics over some steps; Keras's logs are means over the epoch so far."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from hvdkit.metrics.kinds import one_by_one


class MeanWindows:
    """What the metrics of a model that are means have got in training since the last call.

    Keras resets them when an epoch begins; and whenever the model is evaluated, also by a callback
    in the middle of an epoch, the evaluation has them (`training_apart`).

    Args:
        model: a compiled model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._before: dict[str, np.ndarray] = {}
        self._got: dict[str, np.ndarray] = {}
        self._trains = True
        _windows.add(self)

    def begin_epoch(self) -> None:
        """The metrics have been reset, and count the steps of training from here on."""
        self._trains = True
        self.leave_out()

    def end_epoch(self) -> None:
        """The metrics will be reset."""
        self.look()
        self._trains = False

    def since_last(self) -> dict[str, np.ndarray]:
        """Total and count that each has got since the last call, by its name in Keras's logs."""
        self.look()
        got, self._got = self._got, {}
        return got

    def look(self) -> None:
        """Take what they have got."""
        if not self._trains:
            return
        now = self._now()
        for name, state in now.items():
            more = state - self._before.get(name, np.zeros(2))
            self._got[name] = self._got.get(name, np.zeros(2)) + more
        self._before = now

    def leave_out(self) -> None:
        """What they have got since the last look is no training's."""
        self._before = self._now()

    def _now(self) -> dict[str, np.ndarray]:
        return {name: _state(metric) for name, metric in _means(self.model)}


@contextlib.contextmanager
def training_apart(model: Any) -> Iterator[None]:
    """While inside, the metrics of a model count what is no training: an evaluation."""
    own = [window for window in _windows if window.model is model]
    for window in own:
        window.look()
    try:
        yield
    finally:
        for window in own:
            window.leave_out()


_windows: weakref.WeakSet[MeanWindows] = weakref.WeakSet()


def _state(metric: Any) -> np.ndarray:
    return np.array([float(metric.total.numpy()), float(metric.count.numpy())])


def _means(model: Any) -> Iterator[tuple[str, Any]]:
    for metric in model.metrics:
        singles = one_by_one(metric)
        if singles == [metric]:
            named = [(metric.name, metric)]
        elif not singles:  # a list that is not built
            named = []
        else:
            named = list(zip(metric.result(), singles, strict=True))
        yield from ((name, one) for name, one in named if _is_mean(one))


def _is_mean(metric: Any) -> bool:
    """Whether a metric's result is its total over its count, and no root of it or the like."""
    kind = type(metric)
    return isinstance(metric, keras.metrics.Mean) and kind.result is keras.metrics.Mean.result
