"""What it saves to call `map` for a rank's own rows only, where a row takes a while to decode.

    python benchmarks/reading.py

All ranks read epochs of a dataset in three ways, in turn: `dataset.map(decode)` before hvd.shard,
where every rank decodes every row; `hvd.shard(..., map=decode)`; and, as the best that can be, a
plain dataset of as many rows as a rank has to decode. All decode as many rows at a time. A row
takes `--milliseconds` in which the core is free, as when a file comes over a network. A time is
that of the slowest rank; a ratio is of two epochs that came one after the other.
"""

from __future__ import annotations

import statistics

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table

WAYS = {
    "before": "dataset.map(decode), then hvd.shard",
    "inside": "hvd.shard(dataset, map=decode)",
    "own": "dataset.map(decode) of a rank's share",
}


@click.command()
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--rows", default=640)
@click.option("--batch-size", default=16)
@click.option("--milliseconds", default=5.0, help="What it takes to decode a row.")
@click.option("--rounds", default=7, help="Epochs of each way.")
def main(
    launcher: str, ranks: int, rows: int, batch_size: int, milliseconds: float, rounds: int
) -> None:
    """Time epochs that are read in three ways."""
    arguments = [str(n) for n in (rows, batch_size, milliseconds, rounds)]
    found = run_job(launcher, ranks, ["reading_worker.py", *arguments], "READING")
    seconds = {
        way: [max(times) for times in zip(*(rank[way] for rank in found), strict=True)]
        for way in WAYS
    }
    table = Table(title=f"{rows} rows of {milliseconds:g} ms, {ranks} ranks, {launcher}")
    for title in ("", "s an epoch", "of the first (quartiles)"):
        table.add_column(title)
    for way, name in WAYS.items():
        pairs = zip(seconds[way], seconds["before"], strict=True)
        low, middle, high = statistics.quantiles([mine / first for mine, first in pairs], n=4)
        median = statistics.median(seconds[way])
        table.add_row(name, f"{median:.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})")
    Console().print(table)


if __name__ == "__main__":
    main()
