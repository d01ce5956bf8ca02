"""Step times at two ranks: without communication, stock Horovod, hvdkit, with a sharded optimizer.

    python benchmarks/step_time.py --output docs/images/step_time

All jobs are started and warmed up, then they run in turn for some seconds each while the others
are paused, so that a machine whose speed drifts drifts for all of them. The figure of a turn is
the median of its steps on the slowest rank; the table gives the median of the turns and their
range, and the median and the quartiles of the ratios within a round.

`--before CHECKOUT` measures the hvdkit of another checkout, too, and gives the ratio to it.
"""

from __future__ import annotations

import json
import os
import statistics
from functools import partial
from pathlib import Path

import click
from jobs import HERE, PausableJob, step_times_in_turn
from pictures import picture
from rich.console import Console
from rich.table import Table

VARIANTS = {
    "alone": "no communication",
    "stock": "stock Horovod",
    "hvdkit": "hvdkit",
    "sharded": "hvdkit, sharded",
}
BEFORE = "before"
Results = dict[str, dict[str, list[float]]]


@click.command()
@click.option("--models", default="gpt,mlp", help="Models to measure, with commas.")
@click.option("--variants", default=",".join(VARIANTS), help="Kinds of jobs, with commas.")
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--rounds", default=20, help="Turns of each job.")
@click.option("--seconds", default=4.0, help="Length of a turn.")
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout of hvdkit to measure beside this one.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(
    models: str,
    variants: str,
    launcher: str,
    ranks: int,
    rounds: int,
    seconds: float,
    before: Path | None,
    output: Path | None,
) -> None:
    """Measure step times and print them as a table."""
    console = Console(width=100)
    results: Results = {}
    for model in models.split(","):
        starts = {
            variant: partial(PausableJob, launcher, ranks, ["step_worker.py", model, variant])
            for variant in variants.split(",")
        }
        if before is not None:
            command = ["step_worker.py", model, "hvdkit"]
            starts[BEFORE] = partial(PausableJob, launcher, ranks, command, _import_from(before))
        times = step_times_in_turn(starts, rounds, seconds)
        results[model] = times
        console.print(_table(model, ranks, launcher, times))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results, output.with_suffix(".png"))


def _import_from(checkout: Path) -> dict[str, str]:
    """The variables of the environment with which a worker imports another checkout's hvdkit."""
    return {"PYTHONPATH": os.pathsep.join([str(checkout.resolve()), str(HERE)])}


def _ratio(times: dict[str, list[float]], variant: str, base: str) -> str:
    """How much longer a step takes than that of `base`: median and quartiles."""
    if base not in times or variant == base or len(times[variant]) < 2:
        return ""
    ratios = [a / b for a, b in zip(times[variant], times[base], strict=True)]
    low, middle, high = (100 * (q - 1) for q in statistics.quantiles(ratios, n=4))
    return f"{middle:+.0f} % ({low:+.0f} to {high:+.0f})"


def _table(model: str, ranks: int, launcher: str, times: dict[str, list[float]]) -> Table:
    table = Table(title=f"{model}, {ranks} ranks, {launcher}: ms per step")
    bases = {"longer than no communication": "alone"}
    if BEFORE in times:
        bases["longer than before"] = BEFORE
    for column in ("", "median", "min", "max", *bases):
        table.add_column(column, justify="left" if not column else "right")
    for variant, values in times.items():
        figures = (statistics.median(values), min(values), max(values))
        ratios = (_ratio(times, variant, base) for base in bases.values())
        table.add_row(_name(variant), *(f"{v:.1f}" for v in figures), *ratios)
    return table


def _name(variant: str) -> str:
    return VARIANTS.get(variant, "hvdkit before")


def _draw(results: Results, file: Path) -> None:
    with picture(file, columns=len(results), size=(4.5 * len(results), 3.5)) as axes:
        for axis, (model, times) in zip(axes, results.items(), strict=True):
            names = [_name(variant) for variant in times]
            middles = [statistics.median(values) for values in times.values()]
            below = [m - min(v) for m, v in zip(middles, times.values(), strict=True)]
            above = [max(v) - m for m, v in zip(middles, times.values(), strict=True)]
            colors = ["#999999", "#dd6622", "#2266aa", "#44aa66"]
            axis.bar(names, middles, yerr=[below, above], capsize=4, color=colors)
            axis.set_title(model)
            axis.set_ylabel("ms per step")
            axis.tick_params(axis="x", labelrotation=15)


if __name__ == "__main__":
    main()
