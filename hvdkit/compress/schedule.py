"""How the sparsity of a model grows while it is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cubic:
    """Sparsity that rises fast at first and slowly at the end (Zhu & Gupta, arXiv 1710.01878).

    s(t) = sparsity + (initial - sparsity) (1 - (t - begin) / (end - begin))^3, at the steps begin,
    begin + every, ..., and end; what is pruned does not change between them, nor after the end.

    Args:
        sparsity: the share of the units (weights, neurons, heads) of each layer that is pruned in
            the end, below 1.
        end: the step at which it is reached; leave steps after it, in which the model recovers.
        begin: the step before which nothing is pruned.
        every: steps between two changes.
        initial: the share that is pruned at `begin`.

    Raises:
        ValueError: the shares are not 0 <= initial <= sparsity < 1, or sparsity is 0; the steps
            are no integers with 0 <= begin <= end and every >= 1.

    Example:
        >>> schedule = hvd.compress.Cubic(0.8, end=2000, every=100)
        >>> schedule.sparsity_at(1000)
        0.7
    """

    sparsity: float
    end: int
    begin: int = 0
    every: int = 100
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.initial <= self.sparsity < 1 and self.sparsity > 0):
            raise ValueError(
                "the sparsity is a share above 0 and below 1, and the initial one is from 0 to "
                f"that, not sparsity={self.sparsity!r}, initial={self.initial!r}."
            )
        steps = (self.begin, self.end, self.every)
        if not all(isinstance(step, int) for step in steps) or not (
            0 <= self.begin <= self.end and self.every >= 1
        ):
            raise ValueError(
                "the steps of a schedule are integers with 0 <= begin <= end and every >= 1, not "
                f"begin={self.begin!r}, end={self.end!r}, every={self.every!r}."
            )

    def last_change(self, step: int) -> int | None:
        """The last step, up to this one, at which the sparsity changes; None before `begin`."""
        if step < self.begin:
            return None
        if step >= self.end:
            return self.end
        return step - (step - self.begin) % self.every

    def sparsity_at(self, step: int) -> float:
        """The share that is pruned after so many steps."""
        change = self.last_change(step)
        if change is None:
            return 0.0
        if change == self.end:
            return self.sparsity
        left = 1 - (change - self.begin) / (self.end - self.begin)
        return self.sparsity + (self.initial - self.sparsity) * left**3
