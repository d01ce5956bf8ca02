"""Whether memory grows: the resident memory of each rank over 10,000 steps.

    python benchmarks/memory.py

The job trains with dropout, sharded and shuffled data (an epoch has 200 steps), a consistency check
every 100 steps and a checkpoint every 500.
"""

from __future__ import annotations

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table


@click.command()
@click.option("--steps", default=10_000)
@click.option("--every", default=1000, help="Steps between two figures.")
@click.option("--ranks", default=2)
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
def main(steps: int, every: int, ranks: int, launcher: str) -> None:
    """Train, and print the resident memory of each rank in MiB."""
    arguments = ["memory_worker.py", str(steps), str(every)]
    reports = run_job(launcher, ranks, arguments, "MEMORY", timeout=1800)
    table = Table(title=f"{ranks} ranks, {launcher}: resident memory in MiB after ... steps")
    table.add_column("rank", justify="right")
    for number in range(len(reports[0]["resident"])):
        table.add_column(str((number + 1) * every), justify="right")
    for report in sorted(reports, key=lambda report: report["rank"]):
        table.add_row(str(report["rank"]), *(f"{mib:.0f}" for mib in report["resident"]))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
