"""Weights that layers of several stages use, such as an embedding that is also the last kernel.

The first of these stages owns them: its optimizer has the variable, and the others, which borrow
it, send it their gradients and read its value before each step. So it is clipped, averaged over
replicas, updated and saved once, and the copies can't drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet, require_same
from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.exchange.gradient import Gradient, added
from hvdkit.graph.layer_sequence import Part, variables_of

_TAG = 0


@dataclass(frozen=True)
class TiedVariable:
    """A variable of several stages.

    Attributes:
        variable: the variable.
        owner: the first of the stages.
        borrowers: the others.
    """

    variable: Any
    owner: int
    borrowers: tuple[int, ...]


class Tied:
    """The tied weights of a pipeline.

    Args:
        variables: them, in the same order on all stages.
        messages: the stages.
        stages: the ranks of the stages.
    """

    def __init__(
        self, variables: Sequence[TiedVariable], messages: PointToPoint, stages: ProcessSet
    ) -> None:
        self._variables = list(variables)
        self._messages = messages
        self._stages = stages
        place = messages.index
        self._borrowed = {id(t.variable) for t in self._variables if place in t.borrowers}

    def own(self, variables: Sequence[Any]) -> list[Any]:
        """Those of this stage's variables that it does not borrow."""
        return [variable for variable in variables if id(variable) not in self._borrowed]

    def refresh(self) -> None:
        """Give the stages that borrow a variable its value; all stages call it."""
        if not self._variables:
            return
        place = self._messages.index
        with self._messages.during("the distribution of weights that stages share"):
            for tied in self._variables:
                if place == tied.owner:
                    for stage in tied.borrowers:
                        self._messages.send(tied.variable.numpy(), stage, _TAG)
                elif place in tied.borrowers:
                    buffer = _buffer(tied.variable)
                    tied.variable.assign(self._messages.receive(buffer, tied.owner, _TAG))
            self._messages.flush()

    def require_same_flags(self) -> None:
        """Check that all stages train the same of these variables; all stages call it.

        Raises:
            RankMismatchError: on every stage: one of them is frozen on some stages only.
        """
        if self._variables:
            flags = [f"{t.variable.path} trainable={t.variable.trainable}" for t in self._variables]
            require_same("the weights that stages share", flags, self._stages)

    def summed(self, gradients: Mapping[int, Gradient]) -> dict[int, Gradient]:
        """The gradients of this stage's variables, with what other stages add; all stages call it.

        Args:
            gradients: by the ids of the variables.

        Returns:
            The same without those of borrowed variables.
        """
        result = {key: g for key, g in gradients.items() if key not in self._borrowed}
        place = self._messages.index
        for tied in self._variables:
            if place in tied.borrowers and tied.variable.trainable:
                gradient = _dense(gradients.get(id(tied.variable)), tied.variable)
                self._messages.send(gradient, tied.owner, _TAG)
        for tied in self._variables:
            if place == tied.owner and tied.variable.trainable:
                key = id(tied.variable)
                for stage in tied.borrowers:
                    received = self._messages.receive(_buffer(tied.variable), stage, _TAG)
                    (result[key],) = added([result.get(key)], [tf.constant(received)])
        return result


def tied_variables(parts: Sequence[Part], stages: int) -> list[TiedVariable]:
    """The variables of layers in chunks on several stages.

    Args:
        parts: the chunks, which lie on the stages in turns.
        stages: how many stages there are.
    """
    users: dict[int, tuple[Any, set[int]]] = {}
    for number, part in enumerate(parts):
        for variable in variables_of(part.steps):
            users.setdefault(id(variable), (variable, set()))[1].add(number % stages)
    return [
        TiedVariable(variable, min(used), tuple(sorted(used - {min(used)})))
        for variable, used in users.values()
        if len(used) > 1
    ]


def _dense(gradient: Gradient, variable: Any) -> np.ndarray:
    if gradient is None:
        return np.zeros_like(_buffer(variable))
    return np.asarray(tf.cast(tf.convert_to_tensor(gradient), variable._dtype))


def _buffer(variable: Any) -> np.ndarray:
    return np.empty(tuple(variable._shape), tf.as_dtype(variable._dtype).as_numpy_dtype)
