"""Holds `hvdkit plan` to this machine: step times and memory of four forms on two ranks.

    hvdkit plan measure --output cluster.yaml
    python benchmarks/plan.py --cluster cluster.yaml --output docs/images/plan_here

The forms are those of benchmarks/parallel.py, and data parallelism with sharded slots, all in one
job, which trains each in turn; a second job measures memory. Nothing of the model is fitted to
them: the prediction has the measured cluster, and the numbers that benchmarks/plan_published.py
found. Let nothing else run, neither here nor for `measure`.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
from jobs import COUNTED
from parallel_forms import FORMS, ROWS, SHAPE
from pictures import picture
from rich.console import Console
from rich.table import Table
from watched import watch_job

from hvdkit.planner.cluster import Cluster
from hvdkit.planner.cluster_file import find_cluster
from hvdkit.planner.exchange_costs import exchange_cost
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.search import Candidate, on_mesh
from hvdkit.planner.transformer_work import Transformer

WORKER = "plan_worker.py"
NAMES = ("data", "sharded", "tensor", "pipeline")
MIB = 2**20


@click.command()
@click.option("--cluster", required=True, help="What `hvdkit plan measure` has written.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each form.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of a turn.")
@click.option("--limit", default=420.0, show_default=True, help="Seconds that all may take.")
@click.option("--forms", default=",".join(NAMES), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(
    cluster: str, rounds: int, seconds: float, limit: float, forms: str, output: Path | None
) -> None:
    """Predict, measure, and print both."""
    names = forms.split(",")
    machine = find_cluster(cluster).with_ranks(2)
    planned = {name: predicted(name, machine) for name in names}
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:4.0f} s  {line}")

    say(f"starting two ranks for {forms}")
    asked = [WORKER, "times", forms, str(rounds), str(seconds)]
    turns = watch_job("mpi", 2, asked, "PLAN", say, timeout=limit)
    results: dict[str, dict[str, Any]] = {
        name: {
            "planned_ms": 1000 * planned[name].seconds,
            "parts_s": vars(planned[name].step),
            "measured_ms": statistics.median(turns[name]),
            "turns_ms": turns[name],
        }
        for name in names
    }
    Console(width=110).print(_times(results))
    left = limit - (time.monotonic() - began)
    peaks = watch_job("mpi", 2, [WORKER, "memory", forms], "PLAN", say, COUNTED, left)
    for name in names:
        results[name] |= {"planned_bytes": planned[name].memory, "peak_bytes": peaks[name]}
    Console(width=110).print(_memory(results))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results, output.with_suffix(".png"))


def predicted(name: str, machine: Cluster) -> Candidate:
    """What the planner says of a form."""
    form = FORMS["data" if name == "sharded" else name]
    exchange = exchange_cost("sharded" if name == "sharded" else "all-reduce")
    rows = ROWS // form.degrees.data // form.micro_batches
    job = PlannedJob(ROWS, "float32", exchange=exchange, micro_batch=rows)
    return on_mesh(Transformer(SHAPE), machine, job, form.degrees)


def _times(results: dict[str, Any]) -> Table:
    table = _empty("Step times of two ranks of this machine", "ms a step", "of turns")
    for name, found in results.items():
        measured, planned, turns = found["measured_ms"], found["planned_ms"], found["turns_ms"]
        spread = f"{min(turns):.0f} to {max(turns):.0f}"
        table.add_row(name, f"{measured:.0f}", spread, *_planned(planned, measured))
    return table


def _memory(results: dict[str, Any]) -> Table:
    table = _empty("Memory of the rank that needs most", "MiB at most")
    for name, found in results.items():
        peak, planned = found["peak_bytes"] / MIB, found["planned_bytes"] / MIB
        table.add_row(name, f"{peak:.0f}", *_planned(planned, peak))
    return table


def _empty(title: str, *columns: str) -> Table:
    table = Table("", title=title)
    for column in (*columns, "planned", "error"):
        table.add_column(column, justify="right")
    return table


def _planned(planned: float, measured: float) -> tuple[str, str]:
    return f"{planned:.0f}", f"{100 * (planned / measured - 1):+.0f} %"


def _draw(results: dict[str, Any], file: Path) -> None:
    with picture(file, columns=2, size=(9, 3.2)) as axes:
        for axis, pair, scale, label in (
            (axes[0], ("measured_ms", "planned_ms"), 1, "ms a step"),
            (axes[1], ("peak_bytes", "planned_bytes"), MIB, "MiB at most"),
        ):
            for number, key in enumerate(pair):
                places = [row + 0.4 * number - 0.2 for row in range(len(results))]
                values = [found[key] / scale for found in results.values()]
                axis.barh(places, values, 0.4, label=("measured", "planned")[number])
            axis.set_yticks(range(len(results)), list(results))
            axis.invert_yaxis()
            axis.set_xlabel(label)
        axes[1].legend(loc="lower right")


if __name__ == "__main__":
    main()
