"""Means of a model's metrics over some steps; Keras's logs are means over the epoch so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from hvdkit.metrics.kinds import one_by_one


class MeanWindows:
    """What the metrics of a model that are means have got since the last call.

    Args:
        model: a compiled model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before: dict[str, np.ndarray] = {}

    def since_last(self) -> dict[str, np.ndarray]:
        """Total and count that each has got since the last call, by its name in Keras's logs."""
        now = {name: _state(metric) for name, metric in _means(self._model)}
        before, self._before = self._before, now
        return {name: state - _begun(before.get(name), state) for name, state in now.items()}


def _begun(before: np.ndarray | None, now: np.ndarray) -> np.ndarray:
    """The state that a window begins with: zeros where the metric was reset meanwhile."""
    return np.zeros(2) if before is None or before[1] > now[1] else before


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
        yield from ((name, one) for name, one in named if isinstance(one, keras.metrics.Mean))
