"""Several lookouts as one, of which none can stop the training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence

from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.sample import Alarm, Sample

_logger = logging.getLogger("hvdkit")


class Lookouts:
    """Looks at samples, prints alarms, and hands them on.

    A lookout, or what alarms are handed to, that fails is named once, and left out until the next
    `fit`.

    Args:
        lookouts: what looks; each `fit` begins with copies of them.
        hand_to: called with each alarm; its `end`, if it has one, is called at the end of a `fit`.

    Raises:
        TypeError: a lookout is none, or can't be copied.
    """

    def __init__(
        self, lookouts: Sequence[Lookout], hand_to: Callable[[Alarm], object] | None
    ) -> None:
        for lookout in lookouts:
            _require_lookout(lookout)
        self._given, self._given_hand_to = list(lookouts), hand_to
        self._lookouts: list[Lookout] = []
        self._hand_to: Callable[[Alarm], object] | None = None

    def begin(self) -> None:
        """A `fit` begins."""
        self._lookouts = copy.deepcopy(self._given)
        self._hand_to = self._given_hand_to

    def look(self, sample: Sample) -> Iterator[Alarm]:
        """The alarms of a sample, which have been printed and handed on."""
        for lookout in list(self._lookouts):
            try:
                alarm = lookout.look(sample)
            except Exception as error:
                self._lookouts.remove(lookout)
                _say("%s looks no more: %s. The training goes on without it.", lookout, error)
                continue
            if alarm is not None:
                _logger.warning("hvdkit: %s", alarm.text)
                self._hand_on(alarm)
                yield alarm

    def end(self) -> None:
        """The `fit` has ended."""
        ends = getattr(self._hand_to, "end", None)
        if not callable(ends):
            return
        try:
            ends()
        except Exception as error:
            _say("%s could not end: %s.", self._hand_to, error)

    def _hand_on(self, alarm: Alarm) -> None:
        if self._hand_to is None:
            return
        try:
            self._hand_to(alarm)
        except Exception as error:
            _say("%s gets no more alarms: %s. They are printed.", self._hand_to, error)
            self._hand_to = None


def _say(text: str, what: object, error: Exception) -> None:
    name = getattr(what, "__name__", type(what).__name__)
    reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
    _logger.warning(f"hvdkit: {text}", name, reason)


def _require_lookout(lookout: object) -> None:
    name = type(lookout).__name__
    if isinstance(lookout, type) or not callable(getattr(lookout, "look", None)):
        raise TypeError(f"alarms has {lookout!r}, which is no lookout: give it what has look().")
    try:
        copy.deepcopy(lookout)
    except Exception as error:
        raise TypeError(
            f"each fit begins with a copy of its lookouts, and {name} can't be copied: {error}. "
            "Give it a __deepcopy__, or let it open what it needs when it first looks."
        ) from None
