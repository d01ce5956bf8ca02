"""A timeline as a picture."""

from __future__ import annotations

import os
from typing import Any

from hvdkit.schedules.actions import Forward
from hvdkit.schedules.timeline import Timeline

_FORWARD_COLORS = ("#4c72b0", "#8da9d4", "#b7c9e6", "#dbe4f3")
_BACKWARD_COLORS = ("#55a868", "#92c9a0", "#bcdfc5", "#dcefe1")


def draw(timeline: Timeline, path: str | os.PathLike[str]) -> None:
    """Draw a timeline as a PNG: a row for each stage, forward passes blue, backward passes green.

    The numbers are those of the micro-batches; chunks have different shades. The title says
    whether the timeline was measured or simulated.

    Args:
        timeline: what to draw.
        path: the file to write.

    Raises:
        ImportError: matplotlib is not installed; the message names the command.
    """
    figure, axes = _axes(timeline)
    begin = timeline.start
    for span in timeline.spans:
        forward = isinstance(span.action, Forward)
        colors = _FORWARD_COLORS if forward else _BACKWARD_COLORS
        color = colors[span.action.chunk % len(colors)]
        width = span.end - span.start
        axes.barh(span.stage, width, left=span.start - begin, color=color, edgecolor="white")
        middle = span.start - begin + width / 2
        label = str(span.action.micro_batch)
        axes.text(middle, span.stage, label, ha="center", va="center", fontsize=7)
    axes.set_yticks(range(timeline.stages), [f"stage {s}" for s in range(timeline.stages)])
    axes.invert_yaxis()
    axes.set_xlabel("seconds" if timeline.kind == "measured" else "time")
    title = f"{timeline.kind}; stages idle {timeline.bubble:.1%} of the time"
    axes.set_title(title)
    figure.savefig(path, format="png", dpi=120, metadata={"Title": title})


def _axes(timeline: Timeline) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "matplotlib draws timelines, and is not installed. Run\n    pip install matplotlib"
        ) from error
    figure = Figure(figsize=(10, 0.6 * timeline.stages + 1.4), layout="constrained")
    return figure, figure.add_subplot()
