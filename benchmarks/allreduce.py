"""Allreduce from 4 KiB to 64 MiB: hvdkit beside MPI_Allreduce, in turn, in one job.

    python benchmarks/allreduce.py --output docs/images/allreduce

Bandwidth is the size of the tensor over the time of one allreduce. With `HVDKIT_WATCH=0` in the
environment nobody counts what the ranks wait for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from jobs import run_job
from pictures import picture
from rich.console import Console
from rich.table import Table

KIB, MIB = 2**10, 2**20
SIZES = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB]


@click.command()
@click.option("--ranks", default=2)
@click.option("--rounds", default=9, help="How often each is timed, in turn.")
@click.option("--largest", default=64.0, help="Size of the largest tensor, in MiB.")
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(ranks: int, rounds: int, largest: float, output: Path | None) -> None:
    """Measure allreduces and print them as a table."""
    sizes = ",".join(str(size) for size in SIZES if size <= largest * MIB)
    lines = run_job("mpi", ranks, ["allreduce_worker.py", str(rounds), sizes], "ALLREDUCE")
    Console(width=110).print(_table(ranks, lines))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(lines, indent=1) + "\n")
        _draw(lines, output.with_suffix(".png"))


def _size(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def _table(ranks: int, lines: list[dict[str, Any]]) -> Table:
    names = list(lines[0]["median"])
    table = Table(title=f"allreduce, {ranks} ranks: ms (min-max), GB/s")
    table.add_column("size", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("hvdkit / MPI bandwidth", justify="right")
    for line in lines:
        cells = []
        for name in names:
            ms, (low, high) = 1000 * line["median"][name], line["range"][name]
            speed = line["bytes"] / line["median"][name] / 1e9
            cells.append(f"{ms:.3f} ({1000 * low:.3f}-{1000 * high:.3f}) {speed:.2f}")
        share = line["median"]["MPI_Allreduce"] / line["median"]["hvdkit"]
        table.add_row(_size(line["bytes"]), *cells, f"{100 * share:.0f} %")
    return table


def _draw(lines: list[dict[str, Any]], file: Path) -> None:
    with picture(file) as (axis,):
        sizes = [line["bytes"] for line in lines]
        for name in lines[0]["median"]:
            milliseconds = [1000 * line["median"][name] for line in lines]
            axis.loglog(sizes, milliseconds, marker="o", label=name)
        axis.set_xlabel("bytes")
        axis.set_ylabel("ms")
        axis.legend()


if __name__ == "__main__":
    main()
