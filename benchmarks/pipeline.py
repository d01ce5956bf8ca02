"""Idle time of pipeline schedules: measured, simulated for more stages, and as the theory has it.

    python benchmarks/pipeline.py --pictures docs/images/pipeline

A row of equal dense layers is cut into a stage for each rank. For each schedule and number of
micro-batches the steps of one `model.trace()` are measured; the median step counts. On fewer cores
than ranks a stage that computes takes time from the others, and idle time is underestimated.

For more stages than ranks the schedules are simulated with the times that were measured of a
micro-batch, forward and backward, where messages take no time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from jobs import run_job
from pipeline_worker import SCHEDULES
from rich.console import Console
from rich.table import Table

from hvdkit.parallel import schedules
from hvdkit.schedules.gantt import draw
from hvdkit.schedules.simulation import simulate


@click.command()
@click.option("--ranks", default=2)
@click.option("--width", default=1024, help="Units of each of the 8 layers.")
@click.option("--rows", default=64, help="Rows of a micro-batch.")
@click.option("--pictures", default="", help="Folder for a picture of each median step.")
def main(ranks: int, width: int, rows: int, pictures: str) -> None:
    """Train with each schedule, and print times, idle parts and micro-batches kept."""
    arguments = ["pipeline_worker.py", str(width), str(rows), pictures]
    measured = run_job("mpi", ranks, arguments, "PIPELINE", timeout=1800)[0]["results"]
    console = Console(width=110)
    title = f"{ranks} stages, 8 layers of {width} units, {rows} rows a micro-batch"
    console.print(_measured_table(measured, title))
    console.print(_simulated_table(measured, pictures))


def _measured_table(measured: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=f"Measured: {title}")
    for column in (
        "schedule",
        "micro-batches",
        "step (ms)",
        "idle",
        "in theory",
        "kept by stage 0",
    ):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for report in measured:
        table.add_row(
            report["schedule"],
            str(report["micro_batches"]),
            f"{report['milliseconds']:.0f}",
            f"{report['bubble']:.1%}",
            f"{report['theory']:.1%}",
            str(report["kept"]),
        )
    return table


def _simulated_table(measured: list[dict[str, Any]], pictures: str) -> Table:
    """Schedules of more stages, with the measured times of a pass."""
    table = Table(title="Simulated, with the times of a pass that were measured for two stages")
    for column in ("schedule", "stages", "micro-batches", "forward / backward (ms)", "idle"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    table.add_column("in theory", justify="right")
    for schedule in SCHEDULES:
        of_schedule = [m for m in measured if m["schedule"] == repr(schedule)]
        forward, backward = (of_schedule[-1][kind] for kind in ("forward", "backward"))
        for stages, micro_batches in ((4, 8), (8, 32)):
            plan = schedule.plan(stages, micro_batches)
            timeline = simulate(plan, forward, backward, chunks=schedule.chunks)
            table.add_row(
                repr(schedule),
                str(stages),
                str(micro_batches),
                f"{1e3 * forward:.1f} / {1e3 * backward:.1f}",
                f"{timeline.bubble:.1%}",
                f"{schedules.bubble(schedule, stages, micro_batches):.1%}",
            )
            if pictures and stages == 4:
                draw(timeline, Path(pictures) / f"simulated-{type(schedule).__name__}-{stages}.png")
    return table


if __name__ == "__main__":
    main()
