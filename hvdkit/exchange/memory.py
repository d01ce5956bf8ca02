"""What an exchange keeps for each variable, and when it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.layout import layout_of
from hvdkit.mesh.variable import path_of, raw, variable_key

NewValue: TypeAlias = tuple[Any, tf.Tensor]
"""A variable, and the value that it gets with a step that is applied."""


def precise(dtype: Any) -> tf.DType:
    """The type in which sums of such numbers are kept: float32, or the type itself if larger."""
    given = tf.as_dtype(dtype)
    return given if given.size > tf.float32.size else tf.float32


class Memory:
    """Variables of an exchange's own, one for each of some variables, found by these.

    Args:
        kind: what they are, for paths.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._of: dict[int, keras.Variable] = {}

    def add(self, variable: Any, value: Any, dtype: Any) -> keras.Variable:
        """Make one, where the variable lies."""
        with tf.device(raw(variable).device):
            made = keras.Variable(value, dtype=tf.as_dtype(dtype).name, trainable=False)
        self._of[variable_key(variable)] = made
        return made

    def own(self, variables: Sequence[Any]) -> list[Tracked]:
        """Make zeros of the variables' shapes, of each rank's own."""
        return [
            Tracked(
                self.add(v, tf.zeros(v.shape, precise(v.dtype)), precise(v.dtype)),
                Role.RESIDUAL,
                self.path(v),
                layout_of(v),
            )
            for v in variables
        ]

    def path(self, variable: Any) -> str:
        """The path of what is kept for a variable."""
        return f"{self._kind}/{path_of(variable)}"

    def __getitem__(self, variable: Any) -> keras.Variable:
        return self._of[variable_key(variable)]


class StepCount:
    """Counts the steps that were applied; one count for the variables of each optimizer.

    Args:
        kind: what counts, for paths.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._of: dict[int, keras.Variable] = {}
        self._started: list[keras.Variable] = []

    def start(self, variables: Sequence[Any], ranks: ProcessSet) -> list[Tracked]:
        """Begin at 0 for some variables, alike on all ranks."""
        if not variables:
            return []
        steps = keras.Variable(np.zeros([], "int64"), dtype="int64", trainable=False)
        self._of.update((variable_key(v), steps) for v in variables)
        self._started.append(steps)
        path = f"{self._kind}/steps/{path_of(variables[0])}"
        return [Tracked(steps, Role.SLOT, path, same_on=ranks)]

    def now(self, variables: Sequence[Any]) -> tf.Tensor:
        """The steps so far of the optimizer that has these variables."""
        return tf.convert_to_tensor(self._steps(variables).value)

    def ticked(self, variables: Sequence[Any]) -> NewValue:
        """One step more, however many buckets it has."""
        steps = self._steps(variables)
        return steps, tf.convert_to_tensor(steps.value) + 1

    def number(self, variables: Sequence[Any]) -> int:
        """Which of the optimizers has these variables: the same number on all ranks."""
        steps = self._steps(variables)
        return next(i for i, one in enumerate(self._started) if one is steps)

    def _steps(self, variables: Sequence[Any]) -> keras.Variable:
        return self._of[variable_key(variables[0])]


def commit(kept: Sequence[NewValue], applied: Callable[[], tf.Tensor]) -> None:
    """Give variables their values if a step is applied.

    Args:
        kept: the variables with their values.
        applied: whether it is; alike on all ranks.
    """
    if not kept:
        return

    def assign() -> None:
        for variable, value in kept:
            variable.assign(value)

    def nothing() -> None:
        return None

    tf.cond(applied(), assign, nothing)
