"""Step times at two ranks: without communication, stock Horovod, hvdkit; in turn, in one run.

    python benchmarks/step_time.py --rounds 5 --output docs/images/step_time

Each round starts one job of each kind after the other, so that a machine whose speed drifts
drifts for all of them. A job's figure is the median of its steps on its slowest rank; the table
gives the median of the rounds, and their range.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table

VARIANTS = {
    "alone": "no communication",
    "stock": "stock Horovod",
    "hvdkit": "hvdkit",
}
Results = dict[str, dict[str, list[float]]]


@click.command()
@click.option("--models", default="gpt,mlp", help="Models to measure, with commas.")
@click.option("--variants", default=",".join(VARIANTS), help="Kinds of jobs, with commas.")
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--rounds", default=5, help="Jobs of each kind.")
@click.option("--steps", default=30, help="Steps of a job that are timed.")
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(
    models: str,
    variants: str,
    launcher: str,
    ranks: int,
    rounds: int,
    steps: int,
    output: Path | None,
) -> None:
    """Measure step times and print them as a table."""
    console = Console(width=100)
    results: Results = {}
    for model in models.split(","):
        times: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds):
            for variant in variants.split(","):
                arguments = ["step_worker.py", model, variant, str(steps)]
                job = run_job(launcher, ranks, arguments, "STEP_TIMES")
                slowest = max(statistics.median(rank["seconds"]) for rank in job)
                times[variant].append(1000 * slowest)
            console.print(f"{model} round {number + 1}: " + _line(times), highlight=False)
        results[model] = dict(times)
        console.print(_table(model, ranks, launcher, times))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results, output.with_suffix(".png"))


def _line(times: dict[str, list[float]]) -> str:
    return ", ".join(f"{VARIANTS[v]} {values[-1]:.1f} ms" for v, values in times.items())


def _ratio(times: dict[str, list[float]], variant: str) -> str:
    """How much longer a step takes than without communication: median of the rounds' ratios."""
    if "alone" not in times or variant == "alone":
        return ""
    ratios = [a / b for a, b in zip(times[variant], times["alone"], strict=True)]
    return f"{100 * (statistics.median(ratios) - 1):+.0f} %"


def _table(model: str, ranks: int, launcher: str, times: dict[str, list[float]]) -> Table:
    table = Table(title=f"{model}, {ranks} ranks, {launcher}: ms per step")
    for column in ("", "median", "min", "max", "longer than no communication"):
        table.add_column(column, justify="left" if not column else "right")
    for variant, values in times.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(VARIANTS[variant], *(f"{v:.1f}" for v in figures), _ratio(times, variant))
    return table


def _draw(results: Results, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(4.5 * len(results), 3.5), squeeze=False)
    for axis, (model, times) in zip(axes[0], results.items(), strict=True):
        names = [VARIANTS[variant] for variant in times]
        middles = [statistics.median(values) for values in times.values()]
        below = [m - min(v) for m, v in zip(middles, times.values(), strict=True)]
        above = [max(v) - m for m, v in zip(middles, times.values(), strict=True)]
        axis.bar(names, middles, yerr=[below, above], capsize=4, color=["#999", "#d62", "#26a"])
        axis.set_title(model)
        axis.set_ylabel("ms per step")
        axis.tick_params(axis="x", labelrotation=15)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
