"""What it costs to compare ranks: the time of a check on a GPT, beside its training step.

    python benchmarks/consistency.py

All ranks compare the model's and the optimizer's variables, in turn with training steps. The
figure is the median on the slowest rank, also as a share of 100 steps.
"""

from __future__ import annotations

import statistics

import click
from jobs import run_job
from rich.console import Console


@click.command()
@click.option("--model", default="gpt", help="A model of models.py.")
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--ranks", default=2)
@click.option("--rounds", default=20, help="Checks that are timed.")
def main(model: str, launcher: str, ranks: int, rounds: int) -> None:
    """Time the check that all ranks hold the same variables."""
    found = run_job(launcher, ranks, ["consistency_worker.py", model, str(rounds)], "CONSISTENCY")
    check = 1000 * max(statistics.median(rank["check"]) for rank in found)
    step = 1000 * max(statistics.median(rank["step"]) for rank in found)
    numbers, variables = found[0]["numbers"], found[0]["variables"]
    console = Console()
    console.print(f"{model}, {ranks} ranks, {launcher}: {variables} variables, {numbers:,} numbers")
    console.print(f"step {step:.1f} ms, check {check:.1f} ms")
    for beside, length in (("this step", step), ("a step of 250 ms", 250.0)):
        share = 100 * check / (100 * length)
        console.print(f"every 100 steps: {share:.2f} % of {beside}")


if __name__ == "__main__":
    main()
