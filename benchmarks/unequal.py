"""What weights bring where one rank is slower: rows per second of a job, in four ways, in turn.

    python benchmarks/unequal.py

The last rank's process runs for `--share` of the time (`slowed.py`), so all of its computing takes
longer, as on a slower machine. "alone" is each rank by itself with batches of `--batch-size` rows
and no exchange, at the same time as the others; the sum of these speeds is what the ranks allow.
Then the job with equal shares, with the numbers as weights, and with weights="measured". All go
through epochs of `--steps` steps, one way after the other, in an order that changes; a share of
what the ranks allow is of two epochs of one round. The first steps of an epoch do not count, but
what is measured in it does.
"""

from __future__ import annotations

import statistics

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


@click.command()
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--batch-size", default=32)
@click.option("--share", default=0.5, help="Of the time for which the last rank runs.")
@click.option("--steps", default=24, help="Of an epoch; weights are measured in the first 10.")
@click.option("--rounds", default=7, help="Epochs of each way.")
def main(launcher: str, ranks: int, batch_size: int, share: float, steps: int, rounds: int) -> None:
    """Time epochs in four ways."""
    arguments = [str(n) for n in (batch_size, share, steps, rounds)]
    found = run_job(launcher, ranks, ["unequal_worker.py", *arguments], "UNEQUAL", timeout=3000)
    speeds = {
        way: [sum(turn) for turn in zip(*(r[way] for r in found), strict=True)] for way in WAYS
    }
    title = f"{ranks} ranks, {launcher}, {batch_size} rows a rank; the last rank runs {share:.0%}"
    table = Table(title=title)
    for name in ("", "rows/s (quartiles)", "of what the ranks allow (quartiles)"):
        table.add_column(name)
    for way, name in WAYS.items():
        pairs = zip(speeds[way], speeds["alone"], strict=True)
        shares = [100 * mine / alone for mine, alone in pairs]
        table.add_row(name, _spread(speeds[way], "{:.1f}"), _spread(shares, "{:.0f} %"))
    Console().print(table)
    first = found[0]
    alone = ", ".join(f"{statistics.median(rank['alone']):.1f}" for rank in found)
    rows = "; ".join(f"{way}: {first['rows'][way]}" for way in ("fixed", "measured"))
    Console().print(f"Speeds of the ranks alone: {alone} rows/s. Rows of a step: {rows}.")


def _spread(values: list[float], form: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
