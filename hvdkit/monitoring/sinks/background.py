"""A sink that is called in a thread: the training never waits for a server."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sink import Sink

_KEPT = 1000
# How long the end of a `fit` waits for what is not sent yet.
_END_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0

_logger = logging.getLogger("hvdkit")


class AwayError(Exception):
    """A server does not answer; what could not be sent may be sent later."""


class Background:
    """Calls a sink in a thread.

    While a server is away (`AwayError`), which is said once, up to 1000 samples and alarms are
    kept; then the oldest are lost. What else the sink raises is raised by the next call here.

    Args:
        sink: the sink.
        name: what it is called in messages.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._tasks: deque[Callable[[], None]] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._lost = 0
        self._reason = ""
        self._is_busy = self._is_away = self._is_ending = self._is_over = False

    def begin(self, job: Job) -> None:
        """Start the thread."""
        self._put(lambda: self._sink.begin(job))
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def log(self, sample: Sample) -> None:
        """Keep a sample until it is sent."""
        self._put(lambda: self._sink.log(sample))

    def alarm(self, alarm: Alarm) -> None:
        """Keep an alarm until it is sent."""
        self._put(lambda: self._sink.alarm(alarm))

    def call(self, task: Callable[[], None]) -> None:
        """Have something else done in the thread, in its turn.

        Args:
            task: may be called again, after an `AwayError`.
        """
        self._put(task)

    def end(self, more_seconds: float = 0.0) -> None:
        """Wait until all is sent, but not for ever.

        Args:
            more_seconds: how much longer than usual to wait for a server that answers.

        Raises:
            Exception: what the sink raised.
        """
        if self._thread is None:
            return
        if self._error is None:
            self._put(self._sink.end)
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(_END_SECONDS)
        until = time.monotonic() + more_seconds
        while self._thread.is_alive() and not self._is_away and time.monotonic() < until:
            self._thread.join(0.2)
        with self._changed:
            self._is_over = True
            left = len(self._tasks) + self._is_busy
            self._changed.notify()
        if self._error is not None:
            raise self._error
        if left + self._lost:
            _logger.warning(
                "hvdkit: %s did not get everything: %d messages (samples, alarms, the model) were "
                "not sent; %s.",
                self._name,
                left + self._lost,
                self._reason or "the server is slow",
            )

    def _put(self, task: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        with self._changed:
            self._lost += len(self._tasks) == _KEPT
            self._tasks.append(task)
            self._changed.notify()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while (task := self._next()) is not None:
            while not self._is_over:
                try:
                    task()
                except AwayError as reason:
                    self._say_away(reason)
                    with self._changed:
                        self._changed.wait_for(lambda: self._is_ending, timeout=pause)
                    time.sleep(_FIRST_PAUSE if self._is_ending else 0)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                except Exception as error:
                    self._error = error
                    return
                else:
                    self._is_away, pause = False, _FIRST_PAUSE
                    break

    def _next(self) -> Callable[[], None] | None:
        """The next task; None when there will be no more."""
        with self._changed:
            self._is_busy = False
            self._changed.wait_for(lambda: self._tasks or self._is_ending)
            if self._is_over or not self._tasks:
                return None
            self._is_busy = True
            return self._tasks.popleft()

    def _say_away(self, reason: AwayError) -> None:
        if not self._reason:
            _logger.warning(
                "hvdkit: %s: %s. The training goes on; figures are kept, and sent when it is back.",
                self._name,
                reason,
            )
        self._reason, self._is_away = str(reason), True
