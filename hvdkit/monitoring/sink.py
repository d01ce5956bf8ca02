"""Where figures go."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from hvdkit.monitoring.sample import Alarm, Job, Sample


class Sink(Protocol):
    """Takes the figures of a job, on rank 0 only.

    What it raises is said once, as a warning that names it, and the training goes on without it.
    It must not keep the training waiting: a server may be away, and is to be given up within a
    second or two, or to be written to from a thread.
    """

    def begin(self, job: Job) -> None:
        """A `fit` begins; a second one on the same callback begins again."""
        ...

    def log(self, sample: Sample) -> None:
        """Take a sample."""
        ...

    def alarm(self, alarm: Alarm) -> None:
        """Take an alarm; it is printed in any case."""
        ...

    def end(self) -> None:
        """The `fit` has ended, by itself or by an error."""
        ...


@runtime_checkable
class TakesModel(Protocol):
    """A sink that keeps the trained model."""

    def model(self, path: str) -> None:
        """Take the model, unsharded, before `end`.

        Args:
            path: a `.keras` file, which is gone afterwards.
        """
        ...
