"""What a rank that computes gradients does: give them to the servers, and get the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.exchange.parameter_server.messages import DONE, END, PULL, PUSH, WEIGHTS, Layout, Push

_WAITS_FOR_WEIGHTS = "the weights of the parameter servers"
_WAITS_FOR_END = "the end of the training of all workers of the parameter servers"


class Worker:
    """One worker's end of the messages.

    Args:
        messages: between all ranks.
        servers: the ranks that hold variables.
        held: for each of them, the numbers of its variables.
        layouts: for each of them, of its messages.

    Attributes:
        lead: the largest lead over the slowest worker with which this one has begun a step.
    """

    def __init__(
        self,
        messages: PointToPoint,
        servers: Sequence[int],
        held: Sequence[Sequence[int]],
        layouts: Sequence[Layout],
    ) -> None:
        self._messages = messages
        self._servers = list(zip(servers, held, layouts, strict=True))
        self._steps = 0
        self.lead = 0

    def begin(self) -> None:
        """Count steps from 0: a training begins."""
        self._steps = self.lead = 0

    def pull(self) -> list[np.ndarray]:
        """The weights, in the order of the variables."""
        for server, _, _ in self._servers:
            self._messages.send(np.empty(0, np.uint8), server, PULL)
        return self._weights()

    def step(self, rate: Any, there: Sequence[bool], *gradients: np.ndarray) -> list[np.ndarray]:
        """Give the servers the gradients of a step; returns the weights for the next one.

        Args:
            rate: the learning rate of this step.
            there: for each variable, whether it has a gradient.
            *gradients: those that are there.
        """
        given = iter(gradients)
        each = [next(given) if one else None for one in there]
        for server, numbers, layout in self._servers:
            push = Push(float(rate), [each[i] for i in numbers])
            self._messages.send(layout.push(push), server, PUSH)
        self._steps += 1
        return self._weights()

    def leave(self) -> None:
        """Tell the servers that there are no more steps; waits until all workers have."""
        for server, _, _ in self._servers:
            self._messages.send(np.empty(0, np.uint8), server, DONE)
        everyone = list(range(self._messages.size))
        with self._messages.during(_WAITS_FOR_END):
            for server, _, _ in self._servers:
                self._messages.receive_patiently(np.empty(0, np.uint8), server, END, everyone)
        self._messages.flush()

    def _weights(self) -> list[np.ndarray]:
        values: dict[int, np.ndarray] = {}
        with self._messages.during(_WAITS_FOR_WEIGHTS):
            for server, numbers, layout in self._servers:
                message = self._messages.receive_patiently(layout.weights_buffer(), server, WEIGHTS)
                weights = layout.read_weights(message)
                self.lead = max(self.lead, self._steps - weights.slowest)
                values.update(zip(numbers, weights.values, strict=True))
        return [values[i] for i in range(len(values))]
