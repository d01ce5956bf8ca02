"""A plan as a picture: the step of each candidate, by what it is spent on."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hvdkit.planner.search import Plan
from hvdkit.planner.step import StepTime
from hvdkit_cli.errors import CommandError

_MOST = 10


def draw(plan: Plan, file: Path) -> None:
    """Draw the fastest candidates.

    Args:
        plan: what was found.
        file: a PNG, or what else its ending says.

    Raises:
        CommandError: matplotlib is not there, or the file can't be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise CommandError(
            f"a picture needs matplotlib: {error}.", "pip install 'hvdkit[plot]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [each for each in plan.candidates if each.step and not each.problem][:_MOST]
    figure, axis = plt.subplots(figsize=(7.5, 0.8 + 0.35 * len(shown)))
    left = [0.0] * len(shown)
    for part in fields(StepTime):
        widths = [getattr(each.step, part.name) for each in shown]
        axis.barh(range(len(shown)), widths, left=left, label=part.name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    names = [
        f"{each.degrees.data}·{each.degrees.pipeline}·{each.degrees.tensor} "
        f"{each.job.exchange.name if each.degrees.data > 1 else ''}"
        for each in shown
    ]
    axis.set_yticks(range(len(shown)), names)
    axis.invert_yaxis()
    axis.set_xlabel("s a step")
    axis.set_title(f"{plan.model.name} on {plan.cluster.ranks} devices, data·pipeline·tensor")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=100)
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} can't be written: {error}.", "--picture plan.png") from error
    finally:
        plt.close(figure)
