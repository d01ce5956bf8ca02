"""A loss that jumps, or is no number."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from hvdkit.monitoring.alarms.base import Lasting, check_count
from hvdkit.monitoring.sample import Alarm, Sample

# A spread of normally distributed numbers is 1.4826 times their median absolute deviation.
_SPREAD = 1.4826


class LossJump:
    """A loss that jumps, or is no number any more: "loss".

    NaN and infinity are told of at once. A loss jumps if in `samples` samples on end it is above
    the median of the `of` samples before by more than `spreads` spreads of these (by median
    absolute deviation), and by more than `rise` of the median. After that the new height is the
    usual one.

    Args:
        spreads: how many spreads of the samples before it has to rise.
        rise: how much of the median of the samples before it has to rise besides.
        samples: in how many samples on end; more pass over short spikes.
        of: how many samples before it is compared with; nothing is said earlier, but NaN.

    Raises:
        ValueError: an argument that is no positive number, or no number of samples.

    Example:
        >>> hvd.callbacks.Monitor(alarms=[hvd.monitoring.LossJump(rise=1.0)])
    """

    def __init__(
        self, spreads: float = 8.0, rise: float = 0.25, samples: int = 3, of: int = 30
    ) -> None:
        for name, value in (("spreads", spreads), ("rise", rise)):
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"LossJump({name}={value!r}): {name} is a number above 0.")
        check_count("LossJump", "samples", samples)
        check_count("LossJump", "of", of, least=5)
        self._spreads, self._rise, self._of = spreads, rise, of
        self._before: deque[float] = deque(maxlen=of)
        self._above = Lasting(samples, samples, well=of)
        self._no_number = Lasting(1, 1, well=of)

    def look(self, sample: Sample) -> Alarm | None:
        """Look at a sample; the logs of an epoch are only looked at for NaN."""
        loss = sample.values.get("loss")
        if loss is None:
            return None
        finite = math.isfinite(loss)
        if self._no_number.begins(sample, not finite):
            return Alarm(
                "loss",
                f"the loss is {loss:g} since step {self._no_number.since}: look at the norm of "
                "the gradients, the learning rate and the rows of that step.",
                sample.step,
            )
        if not finite or not sample.steps:
            return None
        return self._look_for_jump(sample, loss)

    def _look_for_jump(self, sample: Sample, loss: float) -> Alarm | None:
        if len(self._before) < self._of:
            self._before.append(loss)
            self._above.begins(sample, False)
            return None
        usual = median(self._before)
        spread = _SPREAD * median(abs(value - usual) for value in self._before)
        above = loss - usual > max(self._spreads * spread, self._rise * abs(usual))
        if not above:
            self._before.append(loss)
        if not self._above.begins(sample, above):
            return None
        self._before.clear()
        return Alarm(
            "loss",
            f"the loss has jumped from {usual:.4g} to {loss:.4g} since step {self._above.since}: "
            "look at the learning rate, the norm of the gradients and the data.",
            sample.step,
        )
