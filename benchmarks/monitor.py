"""What it costs to monitor a training: the time that it adds to a step.

    python benchmarks/monitor.py

Two trainings of one model alternate in the same job for `--seconds`, one with
`hvd.callbacks.Monitor` and one without. The steps are short, so that the difference can be seen:
noting moments in the graph, reading them after each step, and a sample with one exchange every so
many steps, written to a file. The difference is given of each two turns that follow one another, in
milliseconds a step, and as a share of a step of 250 ms: by the clock, by the processors' time of
the rank that uses more (Horovod's thread, and ranks that wait in MPI, use it as long as a step
takes), and by that of the thread that Python runs in, which other programs disturb least.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import click
from jobs import run_job
from rich.console import Console
from rich.table import Table

CLOCKS = ("by the clock", "processors, of a rank", "the thread of Python")
LONG_STEP_MS = 250


@click.command()
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--every", default=10, help="A sample after so many steps.")
@click.option("--layers", default=16, help="Dense layers, each with a collective of its own.")
@click.option("--seconds", default=120.0, help="In which both trainings take turns.")
def main(launcher: str, ranks: int, every: int, layers: int, seconds: float) -> None:
    """Time steps with and without a monitor."""
    arguments = ["monitor_worker.py", str(every), str(layers), str(seconds)]
    found = run_job(launcher, ranks, arguments, "MONITOR", timeout=seconds + 120)
    turns = len(found[0]["plain"])
    table = Table(
        title=f"{ranks} ranks, {launcher}, {found[0]['collectives']} collectives a step, a sample "
        f"every {every} steps, {turns} turns of each: ms a step (quartiles)"
    )
    for name in ("", "without", "with a monitor", "difference", f"of {LONG_STEP_MS} ms"):
        table.add_column(name)
    for place, clock in enumerate(CLOCKS):
        # Ranks go in step: the time of a turn is that of the slowest.
        plain, monitored = (
            [1000 * max(rank[kind][turn][place] for rank in found) for turn in range(turns)]
            for kind in ("plain", "monitored")
        )
        added = [m - p for m, p in zip(monitored, plain, strict=True)]
        share = [100 * each / LONG_STEP_MS for each in added]
        columns = [_spread(values, "{:.2f}") for values in (plain, monitored, added)]
        table.add_row(clock, *columns, _spread(share, "{:.2f} %"))
    Console(width=140).print(table)


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
