"""Step times at two ranks: without communication, stock Horovod, hvdkit; in turn, in one run.

    python benchmarks/step_time.py --output docs/images/step_time

All jobs are started and warmed up, then they run in turn for some seconds each while the others
are paused, so that a machine whose speed drifts drifts for all of them. The figure of a turn is
the median of its steps on the slowest rank; the table gives the median of the turns and their
range, and the median and the quartiles of the ratios within a round.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path

import click
from jobs import PausableJob, step_times_in_turn
from pictures import picture
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
@click.option("--rounds", default=20, help="Turns of each job.")
@click.option("--seconds", default=4.0, help="Length of a turn.")
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(
    models: str,
    variants: str,
    launcher: str,
    ranks: int,
    rounds: int,
    seconds: float,
    output: Path | None,
) -> None:
    """Measure step times and print them as a table."""
    console = Console(width=100)
    results: Results = {}
    for model in models.split(","):
        times = _measure(model, variants.split(","), launcher, ranks, rounds, seconds)
        results[model] = times
        console.print(_table(model, ranks, launcher, times))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results, output.with_suffix(".png"))


def _measure(
    model: str, variants: list[str], launcher: str, ranks: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """The ms per step of each turn of each kind of job."""
    starts = {
        variant: partial(PausableJob, launcher, ranks, ["step_worker.py", model, variant])
        for variant in variants
    }
    return step_times_in_turn(starts, rounds, seconds)


def _ratio(times: dict[str, list[float]], variant: str) -> str:
    """How much longer a step takes than without communication: median and quartiles."""
    if "alone" not in times or variant == "alone" or len(times[variant]) < 2:
        return ""
    ratios = [a / b for a, b in zip(times[variant], times["alone"], strict=True)]
    low, middle, high = (100 * (q - 1) for q in statistics.quantiles(ratios, n=4))
    return f"{middle:+.0f} % ({low:+.0f} to {high:+.0f})"


def _table(model: str, ranks: int, launcher: str, times: dict[str, list[float]]) -> Table:
    table = Table(title=f"{model}, {ranks} ranks, {launcher}: ms per step")
    for column in ("", "median", "min", "max", "longer than no communication"):
        table.add_column(column, justify="left" if not column else "right")
    for variant, values in times.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(VARIANTS[variant], *(f"{v:.1f}" for v in figures), _ratio(times, variant))
    return table


def _draw(results: Results, file: Path) -> None:
    with picture(file, columns=len(results), size=(4.5 * len(results), 3.5)) as axes:
        for axis, (model, times) in zip(axes, results.items(), strict=True):
            names = [VARIANTS[variant] for variant in times]
            middles = [statistics.median(values) for values in times.values()]
            below = [m - min(v) for m, v in zip(middles, times.values(), strict=True)]
            above = [max(v) - m for m, v in zip(middles, times.values(), strict=True)]
            colors = ["#999999", "#dd6622", "#2266aa"]
            axis.bar(names, middles, yerr=[below, above], capsize=4, color=colors)
            axis.set_title(model)
            axis.set_ylabel("ms per step")
            axis.tick_params(axis="x", labelrotation=15)


if __name__ == "__main__":
    main()
