"""How ranks may stay together, compared: time and bytes of a step, and what is learnt.

    python benchmarks/exchange.py steps --links none --links 1gbit --output docs/images/exchange
    python benchmarks/exchange.py steps --links 1gbit --ranks-per-host 2
    python benchmarks/exchange.py curves --output docs/images/exchange_curves

`steps` times two ranks by each method in turn, as `step_time.py` does: on this machine, and, as
root, on two hosts that are joined by links of a set rate, where it counts what the first host
sends. There may be several ranks for each host. Ratios are to ranks that do not communicate,
within a round: median and quartiles.

`curves` trains the model of `examples/digits.py` by each method for as many epochs, and prints the
validation loss and accuracy at the end, and the seconds; the picture has the loss by epoch and by
time.
"""

from __future__ import annotations

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
HOSTS = 2


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
        "mpi", 1, ["exchange_worker.py", "bytes", model, ",".join(methods), *counts], MARKER
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
@click.option(
    "--methods", default=",".join(m for m in METHODS if m != ALONE), help="Methods, with commas."
)
@click.option("--ranks", default="2,4", help="Numbers of ranks, with commas.")
@click.option("--epochs", default=12)
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def curves(methods: str, ranks: str, epochs: int, output: Path) -> None:
    """Train the digits by each method."""
    console = Console(width=110)
    results: dict[str, dict[str, Any]] = {}
    for count in map(int, ranks.split(",")):
        results[f"{count} ranks"] = {
            method: run_job(
                "mpi", count, ["exchange_worker.py", "curve", method, str(epochs)], MARKER
            )[0]
            for method in methods.split(",")
        }
        console.print(_ends(f"digits, {count} ranks", results[f"{count} ranks"]))
    if output is not None:
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(results, output.with_suffix(".png"))


def _ends(title: str, found: dict[str, Any]) -> Table:
    table = Table(title=title)
    for column in ("", "validation loss", "accuracy", "seconds"):
        table.add_column(column, justify="left" if not column else "right")
    for method, curve in found.items():
        ends = (f"{curve[name][-1]:.4f}" for name in ("val_loss", "val_accuracy"))
        table.add_row(method, *ends, f"{curve['seconds'][-1]:.1f}")
    return table


def _draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    with picture(file, columns=2 * len(results), size=(9.0 * len(results), 4.0)) as axes:
        for i, (title, found) in enumerate(results.items()):
            for method, curve in found.items():
                epochs = range(1, len(curve["val_loss"]) + 1)
                axes[2 * i].plot(epochs, curve["val_loss"], label=method)
                axes[2 * i + 1].plot(curve["seconds"], curve["val_loss"], label=method)
            for axis, by in zip(axes[2 * i : 2 * i + 2], ("epochs", "seconds"), strict=True):
                axis.set_yscale("log")
                axis.set_title(f"digits, {title}")
                axis.set_xlabel(by)
                axis.set_ylabel("validation loss")
        axes[0].legend(fontsize=7)


if __name__ == "__main__":
    main()
