"""What was found, as a picture: needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hvdkit_cli.scale.figures import PARTS
from hvdkit_cli.scale.result import STRONG, WEAK, Result, Series

_COLORS = {WEAK: "#2266aa", STRONG: "#dd6622"}
_OTHER = "#444444"
_PART_COLORS = ("#44aa66", "#dd6622", "#aa3344", "#ddbb33", "#bbbbbb")
_POINTS_OF_A_CURVE = 60


def can_draw() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        return False
    return bool(matplotlib)


def draw(result: Result, file: Path) -> None:
    """Draw speed-ups with their laws, and where a step goes, into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with_parts = [series for series in result.series if series.sizes[0].parts is not None]
    panels = 1 + len(with_parts)
    figure, axes = plt.subplots(1, panels, figsize=(5 + 3.2 * len(with_parts), 4), squeeze=False)
    _draw_speed_ups(axes[0][0], result)
    for axis, series in zip(axes[0][1:], with_parts, strict=True):
        _draw_parts(axis, series)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _draw_speed_ups(axis: Any, result: Result) -> None:
    sizes = result.series[0].sizes
    fewest, most = sizes[0].ranks, 2 * sizes[-1].ranks
    axis.plot([fewest, most], [1, most / fewest], ":", color="#999999", label="ideal")
    for series in result.series:
        color = _COLORS.get(series.kind, _OTHER)
        ups = [size.speed_up for size in series.sizes]
        axis.errorbar(
            [size.ranks for size in series.sizes],
            [up.value for up in ups],
            yerr=[
                [up.value - (up.value if up.low is None else up.low) for up in ups],
                [(up.value if up.high is None else up.high) - up.value for up in ups],
            ],
            fmt="o",
            capsize=3,
            color=color,
            label=f"{series.kind}: measured",
        )
        if series.fit is not None:
            _draw_law(axis, series, color)
    # Ranges of few rounds are wide: what was measured is what is to be seen.
    lowest = min(size.speed_up.value for series in result.series for size in series.sizes)
    axis.set_ylim(lowest / 1.3, 1.3 * most / fewest)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    ticks = sorted({*(size.ranks for size in sizes), most})
    axis.set_xticks(ticks, [str(ranks) for ranks in ticks])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("ranks")
    axis.set_ylabel(f"speed-up over {fewest} rank{'' if fewest == 1 else 's'}")
    axis.legend(fontsize=8, loc="upper left")


def _draw_law(axis: Any, series: Series, color: str) -> None:
    fit = series.fit
    assert fit is not None
    step = (fit.twice - fit.fewest) / _POINTS_OF_A_CURVE
    ranks = [fit.fewest + step * i for i in range(_POINTS_OF_A_CURVE + 1)]
    axis.plot(ranks, [fit.speed_up(each) for each in ranks], "--", color=color, label=fit.law.name)
    expected = fit.expected
    if expected.low is not None:
        axis.vlines(fit.twice, expected.low, expected.high, color=color, alpha=0.4, linewidth=5)


def _draw_parts(axis: Any, series: Series) -> None:
    names = [str(size.ranks) for size in series.sizes]
    below = [0.0] * len(names)
    for part, color in zip(PARTS, _PART_COLORS, strict=True):
        heights = [1000 * (size.parts or {}).get(part, 0.0) for size in series.sizes]
        axis.bar(names, heights, bottom=below, color=color, label=part, width=0.6)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axis.set_ylim(0, 1.45 * max(below))  # room for the legend
    axis.set_title(f"{series.kind}: where a step goes", fontsize=10)
    axis.set_xlabel("ranks")
    axis.set_ylabel("ms of a step")
    axis.legend(fontsize=7, loc="upper left")
