"""What was found, in sentences."""

from __future__ import annotations

from collections.abc import Callable

from hvdkit.planner.scaling import ROUNDS_FOR_A_RANGE, Estimate, Fit
from hvdkit_cli.scale.result import STRONG, WEAK, Result, Series

# A law that misses by more is of no use, however wide the ranges are.
_FAR = 0.25
_LAWS = {"Amdahl": "Amdahl's law", "Gustafson": "Gustafson's law"}
TITLES = {
    WEAK: "Weak scaling: each rank has the same rows in a step",
    STRONG: "Strong scaling: all ranks together have the same rows in a step",
}


def title_of(series: Series) -> str:
    """What stands above a series."""
    return TITLES.get(series.kind, "As it is: neither the rows of a rank nor those of all stay")


def sentences(result: Result) -> list[str]:
    """All that is to be said besides the figures."""
    found = []
    for series in result.series:
        most = series.sizes[-1]
        kind = series.kind.capitalize()
        found.append(f"{kind}, what limits {most.ranks} ranks: {most.limit}.")
        if series.fit is None:
            rows = ", ".join(f"{size.rows_of_a_step:.0f}" for size in series.sizes)
            found.append(f"{kind}: a step has {rows} rows, so no law of scaling is fitted.")
        else:
            found += [f"{kind}: {text}" for text in _about(series.fit)]
    if result.rounds < ROUNDS_FOR_A_RANGE:
        rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
        found.append(
            f"How far these figures may be off is not known from {rounds}: ranges need "
            f"--rounds {ROUNDS_FOR_A_RANGE}."
        )
    return found + list(result.notes)


def ranged(estimate: Estimate, text: Callable[[float], str]) -> str:
    """An estimate and its range: "3.1 (3.0 to 3.2)"."""
    if estimate.low is None or estimate.high is None:
        return text(estimate.value)
    return f"{text(estimate.value)} ({text(estimate.low)} to {text(estimate.high)})"


def times(value: float) -> str:
    """A speed-up."""
    return f"{value:.2f}"


def percent(share: float) -> str:
    """A share."""
    return f"{100 * share:.1f} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"


def _about(fit: Fit) -> list[str]:
    law, fewest = _LAWS[fit.law.name], fit.fewest
    of_one = f"{fewest} rank{'' if fewest == 1 else 's'}"
    found = [
        f"{law} with a serial share of {ranged(fit.serial, percent)} lets expect "
        f"{ranged(fit.expected, times)} times the speed of {of_one} with {fit.twice} ranks, if "
        "nothing else changes there."
    ]
    check = fit.check
    if check is None:
        found.append(
            f"Through two numbers of ranks {law} goes exactly, so nothing checks it: name a third."
        )
        return found
    how = "high" if check.miss > 0 else "low"
    found.append(
        f"Without its {check.ranks} ranks {law} says {ranged(check.predicted, times)} there, "
        f"measured are {ranged(check.measured, times)}: {percent(abs(check.miss))} too {how}."
    )
    if abs(check.miss) > _FAR or _disagrees(check.predicted, check.measured):
        found.append(
            f"So {law} does not hold here: what it says about {fit.twice} ranks is no more than a "
            "guess."
        )
    return found


def _disagrees(one: Estimate, other: Estimate) -> bool:
    """Whether two ranges do not touch; not known of what was measured too seldom."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low
