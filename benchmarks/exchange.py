"""How ranks may stay together, compared: time and bytes of a step, and what is learnt.

    python benchmarks/exchange.py steps --links none --links 1gbit --output docs/images/exchange
    python benchmarks/exchange.py steps --links 1gbit --ranks-per-host 2
    python benchmarks/exchange.py curves --seeds 3 --output docs/images/exchange_curves

`steps` times two ranks by each method in turn, as `step_time.py` does: on this machine, and, as
root, on two hosts that are joined by links of a set rate, where it counts what the first host
sends. There may be several ranks for each host. Ratios are to ranks that do not communicate,
within a round: median and quartiles.

`curves` trains the models of `examples/digits.py` and `examples/gpt.py` by each method for as many
epochs, and prints the validation loss and accuracy at the end, and the seconds: the median over
seeds, the smallest and the largest. The picture has the loss by epoch and by time.
"""

from __future__ import annotations

import itertools
import json
import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
from exchange_methods import ALONE, METHODS
from jobs import CountedJob, PausableJob, run_job, step_times_in_turn
from pictures import picture
from rich.console import Console
from rich.table import Table
from two_hosts import LAUNCHER, Hosts, hosts

MARKER = "CURVE"
LINES = ("-", "--", ":")
HOSTS = 2
Curve = dict[str, list[float]]


@click.group()
def main() -> None:
    """Compare exchanges."""


@main.command()
@click.option("--models", default="gpt,mlp", help="Models to measure, with commas.")
@click.option("--methods", default=",".join(METHODS), help="Methods, with commas.")
@click.option("--links", multiple=True, default=["none"], help="none, or a rate such as 1gbit.")
@click.option("--ranks-per-host", default=1, help="Ranks for each of the two hosts.")
@click.option("--rounds", default=8, help="Turns of each job.")
@click.option("--seconds", default=4.0, help="Length of a turn.")
@click.option("--output", type=click.Path(path_type=Path), help="A file to write, without ending.")
def steps(
    models: str,
    methods: str,
    links: tuple[str, ...],
    ranks_per_host: int,
    rounds: int,
    seconds: float,
    output: Path,
) -> None:
    """Time and count the steps of two ranks, or more."""
    console = Console(width=110)
    ranks = HOSTS * ranks_per_host
    results: dict[str, Any] = {}
    for link in links:
        with ExitStack() as stack:
            network = None
            if link != "none":
                network = stack.enter_context(hosts(HOSTS, ranks_per_host))
                network.set_rate(link)
            for model in models.split(","):
                measured = _measured(model, methods.split(","), network, ranks, rounds, seconds)
                results[f"{model}, {link}"] = measured
                console.print(_table(f"{model}, {ranks} ranks, links: {link}", measured))
    if output is not None:
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def _measured(
    model: str, methods: list[str], network: Hosts | None, ranks: int, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    sent: dict[str, list[float]] = {method: [] for method in methods}

    def start(method: str) -> PausableJob:
        arguments = ["step_worker.py", model, method]
        if network is None:
            return PausableJob("mpi", ranks, arguments)
        return CountedJob(LAUNCHER, ranks, arguments, network.sent_bytes, sent[method])

    times = step_times_in_turn({m: partial(start, m) for m in methods}, rounds, seconds)
    counts = [str(ranks), str(HOSTS)]
    found = run_job(
        "mpi", ranks, ["exchange_worker.py", "bytes", model, ",".join(methods), *counts], MARKER
    )
    return {
        method: {
            "ms": times[method],
            "bytes": statistics.median(sent[method]) if sent[method] else None,
            "theory": found[0][method],
        }
        for method in methods
    }


def _table(title: str, measured: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=title)
    for column in ("", "ms a step", "times alone", "MB sent a step", "in theory"):
        table.add_column(column, justify="left" if not column else "right")
    alone = measured.get(ALONE, {}).get("ms")
    for method, found in measured.items():
        ratio = ""
        if alone is not None and len(alone) > 1:
            ratios = [a / b for a, b in zip(found["ms"], alone, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        sent = "" if found["bytes"] is None else f"{found['bytes'] / 1e6:.3f}"
        middle = statistics.median(found["ms"])
        table.add_row(method, f"{middle:.1f}", ratio, sent, f"{found['theory'] / 1e6:.3f}")
    return table


@main.command()
@click.option("--tasks", default="digits,gpt", help="Examples to train, with commas.")
@click.option(
    "--methods", default=",".join(m for m in METHODS if m != ALONE), help="Methods, with commas."
)
@click.option("--ranks", default="2,4", help="Numbers of ranks, with commas.")
@click.option("--epochs", default=10)
@click.option("--seeds", default=1, help="Trainings by each method.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Files to write, without ending; what they hold of other tasks and ranks stays.",
)
def curves(
    tasks: str, methods: str, ranks: str, epochs: int, seeds: int, output: Path | None
) -> None:
    """Train models of the examples by each method."""
    console = Console(width=110)
    kept = None if output is None else output.with_suffix(".json")
    results: dict[str, dict[str, list[Curve]]] = {}
    if kept is not None and kept.exists():
        results = json.loads(kept.read_text())
    for task, count in itertools.product(tasks.split(","), map(int, ranks.split(","))):
        found: dict[str, list[Curve]] = {method: [] for method in methods.split(",")}
        # Methods in turn, so that a machine that gets slower does so for all.
        for seed, method in itertools.product(range(1, seeds + 1), found):
            arguments = ["exchange_worker.py", "curve", task, method, str(epochs), str(seed)]
            found[method].append(run_job("mpi", count, arguments, MARKER)[0])
        results[f"{task}, {count} ranks"] = found
        console.print(_ends(f"{task}, {count} ranks, {epochs} epochs", found))
        if kept is not None:
            kept.write_text(json.dumps(results) + "\n")
            _draw(results, kept.with_suffix(".png"))


def _ends(title: str, found: dict[str, list[Curve]]) -> Table:
    table = Table(title=title)
    for column in ("", "validation loss", "accuracy", "seconds"):
        table.add_column(column, justify="left" if not column else "right")
    for method, runs in found.items():
        ends = [
            _spread([run[name][-1] for run in runs if name in run], form)
            for name, form in (("val_loss", ".4f"), ("val_accuracy", ".4f"), ("seconds", ".1f"))
        ]
        table.add_row(method, *ends)
    return table


def _spread(values: list[float], form: str) -> str:
    """The median of some values, and the smallest and the largest."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _draw(results: dict[str, dict[str, list[Curve]]], file: Path) -> None:
    with picture(file, rows=len(results), columns=2, size=(12.0, 4.5 * len(results))) as axes:
        for row, (title, found) in zip(
            zip(axes[::2], axes[1::2], strict=True), results.items(), strict=True
        ):
            for number, (method, runs) in enumerate(found.items()):
                style = LINES[number // 10 % len(LINES)]
                losses, seconds = _median(runs, "val_loss"), _median(runs, "seconds")
                for axis, x in zip(row, (range(1, len(losses) + 1), seconds), strict=True):
                    axis.plot(x, losses, style, label=method)
            for axis, by in zip(row, ("epochs", "seconds"), strict=True):
                axis.set_yscale("log")
                axis.set_title(title)
                axis.set_xlabel(by)
                axis.set_ylabel("validation loss")
        axes[0].legend(fontsize=7)


def _median(runs: list[Curve], name: str) -> list[float]:
    """The curve of the medians of some runs."""
    return [statistics.median(at) for at in zip(*(run[name] for run in runs), strict=True)]


if __name__ == "__main__":
    main()
