"""What weights bring where one rank is slower: rows per second of a job, in four ways, in turn.

    python benchmarks/unequal.py

The last rank's process runs for `--share` of the time (`slowed.py`), so all of its computing takes
longer, as on a slower machine. At first one training with weights="measured" goes through
`--on-the-way` steps: what its steps take, and the rows of each rank, from one agreement to the
next. Then all four ways take turns for `--seconds`, with epochs of `--steps` steps in an order that
changes. "alone" is each rank by itself with batches of `--batch-size` rows and no exchange, at the
same time as the others; the sum of these speeds is what the ranks allow. Then the job with equal
shares, with the numbers as weights, and with weights="measured", which by then have been found. A
share of what the ranks allow is of two epochs of one round; the first steps of an epoch do not
count.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table

WAYS = {
    "alone": "the ranks alone, added up",
    "equal": "equal shares",
    "fixed": "weights of the speeds",
    "measured": 'weights="measured"',
}


# After which steps the ranks agree on shares (`Measured` of hvdkit/data/speeds.py).
AGREEMENTS = (10, 42, 170)


@click.command()
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--batch-size", default=32)
@click.option("--share", default=0.5, help="Of the time for which the last rank runs.")
@click.option("--steps", default=24, help="Of an epoch.")
@click.option("--on-the-way", default=240, help="Steps while weights are found.")
@click.option("--seconds", default=150.0, help="In which all ways take turns.")
def main(
    launcher: str,
    ranks: int,
    batch_size: int,
    share: float,
    steps: int,
    on_the_way: int,
    seconds: float,
) -> None:
    """Time epochs in four ways."""
    arguments = [str(n) for n in (batch_size, share, steps, on_the_way, seconds)]
    found = run_job(launcher, ranks, ["unequal_worker.py", *arguments], "UNEQUAL", timeout=900)
    console = Console()
    console.print(_on_the_way(found[0], batch_size * ranks))
    speeds = {
        way: [sum(turn) for turn in zip(*(r[way] for r in found), strict=True)] for way in WAYS
    }
    title = f"{ranks} ranks, {launcher}, {batch_size} rows a rank; the last rank runs {share:.0%}"
    table = Table(title=f"{title}; {len(speeds['alone'])} rounds")
    for name in ("", "rows/s (quartiles)", "of what the ranks allow (quartiles)"):
        table.add_column(name)
    for way, name in WAYS.items():
        pairs = zip(speeds[way], speeds["alone"], strict=True)
        shares = [100 * mine / alone for mine, alone in pairs]
        table.add_row(name, _spread(speeds[way], "{:.1f}"), _spread(shares, "{:.0f} %"))
    console.print(table)
    first = found[0]
    alone = ", ".join(f"{statistics.median(rank['alone']):.1f}" for rank in found)
    rows = "; ".join(f"{way}: {first['rows'][way]}" for way in ("fixed", "measured"))
    console.print(f"Speeds of the ranks alone: {alone} rows/s. Rows of a step: {rows}.")


def _on_the_way(first: dict[str, Any], rows: int) -> Table:
    """What steps took between two agreements."""
    table = Table(title='weights="measured" from the first step on')
    for name in ("steps", "rows of each rank", "ms a step (quartiles)", "rows/s"):
        table.add_column(name)
    ends, seen = first["ends"], first["rows on the way"]
    agreed = [step for step in AGREEMENTS if step < len(ends) - 2]
    for begin, end in itertools.pairwise([2, *agreed, len(ends)]):
        took = [1000 * (b - a) for a, b in itertools.pairwise(ends[begin - 1 : end])]
        own = "/".join(map(str, seen[end - 2]))
        speed = f"{1000 * rows / statistics.median(took):.1f}"
        table.add_row(f"{begin + 1} to {end}", own, _spread(took, "{:.0f}"), speed)
    return table


def _spread(values: list[float], form: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
