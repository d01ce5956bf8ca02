"""Reads the moments of a rank's steps, beside other readers."""

from __future__ import annotations

import dataclasses
import math

from hvdkit.watch.moments import Moments
from hvdkit.watch.step_times import StepTimes


class Reader:
    """Reads what is noted, beside other readers.

    Args:
        times: where it is noted.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._spans = times.spans_so_far

    def read(self, until: float = math.inf) -> Moments:
        """What has been noted so far.

        Args:
            until: the next call gets the spans that have begun after this.
        """
        moments = self._times.moments(self._spans)
        late = sum(span.begun >= until for span in moments.spans)
        self._spans = self._times.spans_so_far - late
        spans = moments.spans[: len(moments.spans) - late]
        return dataclasses.replace(moments, spans=spans)

    def wants_norm(self, wanted: bool) -> None:
        """Say whether the next steps compute the norm of their gradients."""
        self._times.compute_norm(self, wanted)
