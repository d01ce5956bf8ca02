"""What it costs to monitor a training: the time that it adds to a step.

    python benchmarks/monitor.py

Two trainings of one model alternate in the same job, one with `hvd.callbacks.Monitor` and one
without. The steps are short, so that the difference can be seen: noting moments in the graph,
reading them after each step, and a sample with one exchange every so many steps, written to a
file. It is given in milliseconds a step, and as a share of a step of 250 ms.
"""

from __future__ import annotations

import statistics

import click
from jobs import run_job
from rich.console import Console


@click.command()
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--every", default=10, help="A sample after so many steps.")
@click.option("--layers", default=16, help="Dense layers of the model, of 1 MiB each.")
@click.option("--rounds", default=10, help="Turns of each training, of 60 steps.")
def main(launcher: str, ranks: int, every: int, layers: int, rounds: int) -> None:
    """Time steps with and without a monitor."""
    arguments = ["monitor_worker.py", str(every), str(layers), str(rounds)]
    found = run_job(launcher, ranks, arguments, "MONITOR")
    # Ranks go in step: the time of a turn is that of the slowest.
    plain, monitored = (
        [max(turn) for turn in zip(*(rank[kind] for rank in found), strict=True)]
        for kind in ("plain", "monitored")
    )
    added = [1000 * (m - p) for m, p in zip(monitored, plain, strict=True)]
    low, middle, high = statistics.quantiles(added, n=4)
    console = Console(width=100)
    console.print(
        f"{ranks} ranks, {launcher}, {found[0]['collectives']} collectives a step, "
        f"a sample every {every} steps: a step takes {1000 * statistics.median(plain):.2f} ms"
    )
    console.print(
        f"a monitor adds {middle:.3f} ms ({low:.3f} to {high:.3f}) to a step, "
        f"{middle / 2.5:.2f} % ({low / 2.5:.2f} to {high / 2.5:.2f}) of one of 250 ms"
    )


if __name__ == "__main__":
    main()
