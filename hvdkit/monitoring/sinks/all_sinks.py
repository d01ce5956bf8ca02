"""Several sinks as one, of which none can stop the training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

from hvdkit.errors import HvdkitError
from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sink import Sink, TakesModel

_METHODS = ("begin", "log", "alarm", "end")

_logger = logging.getLogger("hvdkit")


class Sinks:
    """Gives figures to several sinks.

    One that fails is named once, and left out until the next `fit`.

    Args:
        sinks: the sinks.

    Raises:
        TypeError: one of them is none.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        for sink in sinks:
            missing = [name for name in _METHODS if not callable(getattr(sink, name, None))]
            if isinstance(sink, type) or missing:
                hint = f"an instance: {sink.__name__}(...)" if isinstance(sink, type) else ""
                raise TypeError(
                    f"sinks has {sink!r}, which is no sink: "
                    f"give it {hint or 'what has ' + ', '.join(_METHODS)}."
                )
        self._sinks = list(sinks)
        self._going: list[Sink] = []

    @property
    def take_models(self) -> bool:
        """Whether one of them takes the model."""
        return any(isinstance(sink, TakesModel) for sink in self._going)

    def begin(self, job: Job) -> None:
        """A `fit` begins.

        Raises:
            HvdkitError: what a sink needs is not there, and will not come.
        """
        self._going = []
        for sink in self._sinks:
            self._going.append(sink)
            try:
                sink.begin(job)
            except HvdkitError:
                self.end()
                raise
            except Exception as error:
                self._leave_out(sink, error)

    def log(self, sample: Sample) -> None:
        """Give them a sample."""
        self._each(lambda sink: sink.log(sample))

    def alarm(self, alarm: Alarm) -> None:
        """Give them an alarm."""
        self._each(lambda sink: sink.alarm(alarm))

    def model(self, path: str) -> None:
        """Give the model to those that take it.

        Args:
            path: a `.keras` file.
        """
        self._each(lambda sink: sink.model(path) if isinstance(sink, TakesModel) else None)

    def end(self) -> None:
        """The `fit` has ended."""
        self._each(lambda sink: sink.end())
        self._going = []

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._going):
            try:
                call(sink)
            except Exception as error:
                self._leave_out(sink, error)

    def _leave_out(self, sink: Sink, error: Exception) -> None:
        self._going.remove(sink)
        _logger.warning(
            "hvdkit: %s takes no more figures: %s. The training goes on without it.",
            type(sink).__name__,
            str(error).strip().rstrip(".") or type(error).__name__,
        )
        with contextlib.suppress(Exception):  # it closes what it can; why it failed has been said
            sink.end()
