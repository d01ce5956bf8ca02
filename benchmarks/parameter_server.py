"""One of the ranks is slow: what the others' steps take, with all-reduce and without waiting.

    python benchmarks/parameter_server.py

Two ranks train, and one more serves where there is a parameter server. For each exchange there are
two jobs: one in which all ranks are equally fast, and one in which rank 1 is `--slowed` times as
slow. Printed is the median step of rank 0 in both, and their ratio: 1 where it waits for nobody,
`--slowed` where it waits for the slow one.
"""

from __future__ import annotations

import click
from jobs import run_job

RANKS = {"all-reduce": 2, "asynchronous": 3}
WORKER = "parameter_server_worker.py"


@click.command()
@click.option("--steps", default=60, help="Steps of a rank.")
@click.option("--seconds", default=0.05, help="Least seconds of a step.")
@click.option("--slowed", default=4.0, help="How many times as slow rank 1 is.")
def main(steps: int, seconds: float, slowed: float) -> None:
    """Measure, and print a line for each exchange."""
    for exchange in RANKS:
        fast, slow = (_step_of_rank_0(exchange, steps, seconds, by) for by in (1.0, slowed))
        print(
            f"{exchange:14} {1e3 * fast:7.1f} ms, with a slow rank {1e3 * slow:7.1f} ms: "
            f"{slow / fast:.2f} times"
        )


def _step_of_rank_0(exchange: str, steps: int, seconds: float, slowed: float) -> float:
    arguments = [WORKER, exchange, str(steps), str(seconds), str(slowed)]
    medians = run_job("mpi", RANKS[exchange], arguments, "STEP")
    return next(float(one["seconds"]) for one in medians if one["rank"] == 0)


if __name__ == "__main__":
    main()
