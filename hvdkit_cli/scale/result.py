"""All starts together: speeds, speed-ups, and the law that they follow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hvdkit.planner.scaling import (
    AMDAHL,
    GUSTAFSON,
    Estimate,
    Fit,
    fit_law,
    mean,
    ratio_mean,
)
from hvdkit_cli.scale.figures import Figures, averaged
from hvdkit_cli.scale.limits import limit_of
from hvdkit_cli.scale.setting import Setting

Rounds = Sequence[Mapping[int, Figures]]
"""The starts of each round, by their ranks."""

# Steps at an epoch's end may have fewer rows.
_SAME = 0.2
WEAK, STRONG, NEITHER = "weak", "strong", "as it is"


@dataclass(frozen=True)
class Size:
    """What was measured with one number of ranks.

    Attributes:
        ranks: how many.
        hosts: on how many hosts.
        rows_of_a_step: of all ranks.
        step_seconds: a step.
        speed: rows a second.
        tokens: tokens a second; None where rows have none.
        speed_up: compared with the fewest ranks, each round by itself.
        efficiency: the speed-up as a share of what as many ranks could make of it.
        parts: seconds of a step by what they go to; None where that is not known.
        cores: cores of all hosts that the ranks may use.
        cores_busy: the share of their time that the ranks have used.
        devices_busy: the share of time in which GPUs were busy; None where they do not tell.
        model_flops_share: what devices make of their peak; None where that is not known.
        device_memory: the most bytes of a rank on its devices; None without one.
        sent: bytes a second that a rank gives to collectives.
        link: bytes a second that a host sends to others; None with one host.
        link_share: of what its network interface can send; None where it does not tell.
        joules: energy of a step; None where the machine does not tell.
        limit: what limits it, in a sentence.
    """

    ranks: int
    hosts: int
    rows_of_a_step: float
    step_seconds: float
    speed: Estimate
    tokens: Estimate | None
    speed_up: Estimate
    efficiency: Estimate
    parts: Mapping[str, float] | None
    cores: float
    cores_busy: float
    devices_busy: float | None
    model_flops_share: float | None
    device_memory: float | None
    sent: float | None
    link: float | None
    link_share: float | None
    joules: float | None
    limit: str


@dataclass(frozen=True)
class Series:
    """A training on several numbers of ranks.

    Attributes:
        kind: weak where each rank has the same rows in a step, strong where all together have;
            "as it is" where neither is so, and no law is fitted.
        sizes: from the fewest ranks to the most.
        fit: the law; None where there is none.
    """

    kind: str
    sizes: Sequence[Size]
    fit: Fit | None


@dataclass(frozen=True)
class Result:
    """What `hvdkit scale` has found.

    Attributes:
        command: what was run.
        setting: when, where and with what.
        rounds: how often each number of ranks was started.
        steps: measured in each start, after `warm_up`.
        warm_up: see `steps`.
        series: one or two.
        notes: what the reader has to know besides, a sentence each.
    """

    command: str
    setting: Setting
    rounds: int
    steps: int
    warm_up: int
    series: Sequence[Series]
    notes: Sequence[str]


def kind_of(rows: Mapping[int, float]) -> str:
    """What kind of scaling it is, by the rows of a step with each number of ranks."""
    fewest = min(rows)
    ratios = {ranks / fewest: count / rows[fewest] for ranks, count in rows.items()}
    if all(abs(math.log(found / ratio)) < _SAME for ratio, found in ratios.items()):
        return WEAK
    if all(abs(math.log(found)) < _SAME for found in ratios.values()):
        return STRONG
    return NEITHER


def series_of(rounds: Rounds) -> Series:
    """What the starts of one kind say together.

    Args:
        rounds: with the same numbers of ranks in each.
    """
    sizes = sorted(rounds[0])
    of = {ranks: [each[ranks] for each in rounds] for ranks in sizes}
    kind = kind_of({ranks: _mean(of[ranks], _rows_of_a_step) for ranks in sizes})
    law = {WEAK: GUSTAFSON, STRONG: AMDAHL}.get(kind)
    speeds = [{ranks: each[ranks].speed for ranks in sizes} for each in rounds]
    first = of[sizes[0]]
    return Series(
        kind,
        [_size(of[ranks], first, strong=kind == STRONG) for ranks in sizes],
        None if law is None else fit_law(law, speeds),
    )


def _size(own: Sequence[Figures], first: Sequence[Figures], *, strong: bool) -> Size:
    ratio = own[0].ranks / first[0].ranks
    speed_up = ratio_mean([a.speed / b.speed for a, b in zip(own, first, strict=True)])
    tokens = [each.values.get("tokens_per_second") for each in own]
    links = [link for each in own for link in each.links]
    figures = averaged(own)
    values, step = figures.values, figures.values["step_seconds"]
    return Size(
        ranks=own[0].ranks,
        hosts=own[0].hosts,
        rows_of_a_step=_mean(own, _rows_of_a_step),
        step_seconds=step,
        speed=mean([each.speed for each in own]),
        tokens=None if None in tokens else mean([each for each in tokens if each is not None]),
        speed_up=speed_up,
        efficiency=speed_up.mapped(lambda value: value / ratio),
        parts=figures.parts,
        cores=sum(own[0].cores.values()),
        cores_busy=_mean(own, lambda each: each.cores_busy),
        devices_busy=_mean_of_known([each.devices_busy for each in own]),
        model_flops_share=values.get("model_flops_share"),
        device_memory=values.get("device_memory_peak_bytes"),
        sent=values["sent_bytes"] / step if "sent_bytes" in values else None,
        link=_mean_of_known([sent for sent, _ in links]),
        link_share=max((sent / most for sent, most in links if most is not None), default=None),
        joules=values.get("joules_per_step"),
        limit=limit_of(figures, averaged(first), strong=strong),
    )


def _rows_of_a_step(figures: Figures) -> float:
    return figures.rows_of_a_step


def _mean(starts: Sequence[Figures], of: Callable[[Figures], float]) -> float:
    return statistics.fmean(map(of, starts))


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is not known, or there is none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
