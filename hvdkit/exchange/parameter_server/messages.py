"""What workers and servers send each other, as bytes.

A worker asks (PULL), gives gradients and asks (PUSH), or leaves (DONE); a server answers the first
two with its variables (WEIGHTS), once the worker may begin its next step, and with END once all
workers have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

PULL, PUSH, DONE, WEIGHTS, END = range(5)


@dataclass(frozen=True)
class Push:
    """A step's gradients.

    Attributes:
        rate: the learning rate that the worker has at this step.
        gradients: one for each variable of the server; None where there is none.
    """

    rate: float
    gradients: list[np.ndarray | None]


@dataclass(frozen=True)
class Weights:
    """A server's variables.

    Attributes:
        slowest: the clock of the slowest worker when they were sent.
        values: one for each variable of the server.
    """

    slowest: int
    values: list[np.ndarray]


class Layout:
    """How arrays for some variables lie in a message: numbers first, then the arrays' bytes.

    Args:
        variables: a server's variables.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._shapes = [tuple(variable.shape) for variable in variables]
        self._dtypes = [
            np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype) for variable in variables
        ]
        self.sizes = [
            int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            for shape, dtype in zip(self._shapes, self._dtypes, strict=True)
        ]

    def push(self, push: Push) -> np.ndarray:
        """A push as a message (uint8)."""
        there = [gradient is not None for gradient in push.gradients]
        return self._packed([push.rate, *there], push.gradients)

    def read_push(self, message: np.ndarray) -> Push:
        """What `push` has made a message of."""
        (rate, *there), arrays = self._unpacked(message, 1 + len(self.sizes))
        present = iter(self._arrays(arrays, [bool(one) for one in there]))
        return Push(rate, [next(present) if one else None for one in there])

    def weights(self, weights: Weights) -> np.ndarray:
        """Weights as a message (uint8)."""
        return self._packed([weights.slowest], weights.values)

    def read_weights(self, message: np.ndarray) -> Weights:
        """What `weights` has made a message of."""
        (slowest,), arrays = self._unpacked(message, 1)
        return Weights(int(slowest), self._arrays(arrays, [True] * len(self.sizes)))

    def weights_buffer(self) -> np.ndarray:
        """Memory for a message of weights (uint8)."""
        return np.empty(8 + sum(self.sizes), np.uint8)

    def _packed(self, numbers: Sequence[float], arrays: Sequence[np.ndarray | None]) -> np.ndarray:
        parts = [np.array(numbers, np.float64), *(a for a in arrays if a is not None)]
        return np.concatenate([np.ascontiguousarray(p).reshape(-1).view(np.uint8) for p in parts])

    def _unpacked(self, message: np.ndarray, numbers: int) -> tuple[list[float], np.ndarray]:
        end = 8 * numbers
        return message[:end].view(np.float64).tolist(), message[end:]

    def _arrays(self, data: np.ndarray, there: Sequence[bool]) -> list[np.ndarray]:
        arrays, start = [], 0
        for present, size, shape, dtype in zip(
            there, self.sizes, self._shapes, self._dtypes, strict=True
        ):
            if present:
                part = data[start : start + size]
                # A type may need another place in memory than the one before it has left it.
                arrays.append(np.frombuffer(part.tobytes(), dtype).reshape(shape))
                start += size
        return arrays
