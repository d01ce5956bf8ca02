"""The early signal of a scheduler: save at the next step boundary, and end.

SIGTERM and SIGUSR1 only set a flag on the rank that gets them. At step boundaries, about five
times a second, the ranks look together whether any of them has it set.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import tensorflow as tf

from hvdkit.engine import Max, ops, topology

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: "try again later"."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SECONDS = 0.2
_MOST_STEPS = 1000


class Preempted(SystemExit):
    """The training was interrupted by a signal, and everything is saved; exit status 75."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class SignalFlag:
    """Whether this rank was told to end. Python delivers signals to the main thread only."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Start to listen; without effect outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)

    def uninstall(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def ignore(self) -> None:
        """Let none of the signals end this process any more, which is about to end by itself.

        Launchers send SIGTERM to ranks that are still leaving when the first has left.
        """
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


class Agreement:
    """Small numbers that the ranks compare at step boundaries, about every 0.2 s.

    How many steps pass between two comparisons is agreed on as well, so all ranks come to the
    same ones.
    """

    def __init__(self) -> None:
        self._steps_left = 1
        self._steps = 1
        self._since = time.monotonic()

    def is_due(self, steps: int = 1) -> bool:
        """Count steps; whether the ranks compare now. The answer is the same on all of them."""
        self._steps_left -= steps
        return self._steps_left <= 0

    def largest(self, *numbers: int) -> list[int]:
        """The largest of all ranks' numbers, each for itself; every rank calls it."""
        now = time.monotonic()
        step_seconds = max((now - self._since) / self._steps, 1e-6)
        steps = max(1, min(_MOST_STEPS, int(_SECONDS / step_seconds)))
        values = [steps, *numbers]
        if topology.size() > 1:
            agreed = ops.allreduce(tf.constant(values, tf.int32), Max, name="hvdkit.agreement")
            values = agreed.numpy().tolist()
        # One slow step, the first one above all, says little about the next.
        self._steps = self._steps_left = min(values[0], 2 * self._steps)
        self._since = now
        return [int(value) for value in values[1:]]
