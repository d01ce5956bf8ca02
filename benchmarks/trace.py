"""Draw a trace of `hvd.trace`, and measure what tracing costs.

    python benchmarks/trace.py --output docs/images/trace.png
    python benchmarks/trace.py --cost --ranks 1

The first traces three steps of a model on two ranks, and draws what the file holds, as Perfetto
shows it. The second takes turns: steps without a trace, with one whose steps have not come, and
with one that is being made. It shows the fastest step of each turn, and the least time of
processors, which a busy machine changes less (but ranks that wait for each other use some, too).
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import click
from jobs import run_job
from pictures import picture
from rich.console import Console
from rich.table import Table

COLORS = {
    "steps": "#bbbbbb",
    "input": "#66aa55",
    "making batches": "#aaccaa",
    "forward": "#2266aa",
    "backward": "#6699cc",
    "optimizer": "#8855aa",
    "collectives": "#dd6622",
}


@click.command()
@click.option("--model", default="gpt", type=click.Choice(["gpt", "mlp"]))
@click.option("--output", type=click.Path(path_type=Path), help="PNG to write.")
@click.option("--cost", is_flag=True, help="Measure instead what tracing costs.")
@click.option("--ranks", default=2, help="How many ranks.")
def main(model: str, output: Path | None, cost: bool, ranks: int) -> None:
    """Trace steps of some ranks."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = "cost" if cost else "picture"
        [found] = run_job("mpi", ranks, ["trace_worker.py", model, folder, wanted], "TRACE")
        if cost:
            _show_costs(model, found)
            return
        with gzip.open(found["file"], "rt") as file:
            trace = json.load(file)
        size = Path(found["file"]).stat().st_size
    Console().print(f"{len(trace['traceEvents'])} events, {size / 1e3:.1f} kB")
    if output is not None:
        _draw(trace["traceEvents"], output)


def _show_costs(model: str, found: dict[str, list[tuple[float, float]]]) -> None:
    for place, what in enumerate(("a step", "processors in a step")):
        table = Table(title=f"{model}: ms of {what}")
        table.add_column("trace")
        for turn in range(len(found["without"])):
            table.add_column(f"turn {turn + 1}", justify="right")
        table.add_column("least", justify="right")
        for name, turns in found.items():
            seconds = [turn[place] for turn in turns]
            row = [*seconds, min(seconds)]
            table.add_row(name, *(f"{each * 1e3:.2f}" for each in row))
        Console().print(table)


def _draw(events: list[dict[str, Any]], file: Path) -> None:
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"
    }
    ranks = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    rows = [key for key in sorted(threads) if "making" not in threads[key]]
    with picture(file, size=(10, 0.26 * len(rows) + 0.9)) as (axis,):
        for event in events:
            key = event["pid"], event["tid"]
            if event["ph"] == "X" and key in rows:
                _draw_slice(axis, len(rows) - rows.index(key), event)
        for row, key in enumerate(rows):
            if row and rows[row - 1][0] != key[0]:
                axis.axhline(len(rows) - row + 0.5, color="#888888", linewidth=0.8)
        names = [f"{ranks[key[0]]}: {threads[key]}" for key in rows]
        axis.set_yticks(range(len(rows), 0, -1), names, fontsize=7)
        axis.set_xlabel("ms")
        axis.margins(x=0.01)


def _draw_slice(axis: Any, place: int, event: dict[str, Any]) -> None:
    color = COLORS.get(event["name"]) or COLORS.get(event["cat"], "#999999")
    begin, length = event["ts"] / 1e3, event["dur"] / 1e3
    axis.barh(place, length, left=begin, height=0.8, color=color, edgecolor="white", linewidth=0.3)
    if event["cat"] in ("steps", "forward and backward"):
        axis.text(begin + length / 2, place, event["name"], ha="center", va="center", fontsize=6)


if __name__ == "__main__":
    main()
