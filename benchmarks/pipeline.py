"""Idle time of pipeline schedules: measured, and as the theory has it.

    python benchmarks/pipeline.py

A row of equal dense layers is cut into a stage for each rank. For each schedule and number of
micro-batches the steps of one `model.trace()` are measured; the median step counts. On fewer cores
than ranks a stage that computes takes time from the others, and idle time is underestimated.
"""

from __future__ import annotations

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table


@click.command()
@click.option("--ranks", default=2)
@click.option("--width", default=1024, help="Units of each of the 8 layers.")
@click.option("--rows", default=64, help="Rows of a micro-batch.")
@click.option("--pictures", default="", help="Folder for a picture of each median step.")
def main(ranks: int, width: int, rows: int, pictures: str) -> None:
    """Train with each schedule, and print times, idle parts and micro-batches kept."""
    arguments = ["pipeline_worker.py", str(width), str(rows), pictures]
    reports = run_job("mpi", ranks, arguments, "PIPELINE", timeout=1800)
    table = Table(title=f"{ranks} stages, 8 layers of {width} units, {rows} rows a micro-batch")
    for column in (
        "schedule",
        "micro-batches",
        "step (ms)",
        "idle",
        "in theory",
        "kept by stage 0",
    ):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for report in reports[0]["results"]:
        table.add_row(
            report["schedule"],
            str(report["micro_batches"]),
            f"{report['milliseconds']:.0f}",
            f"{report['bubble']:.1%}",
            f"{report['theory']:.1%}",
            str(report["kept"]),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
