"""A plan as a table, and the best of it in words."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from hvdkit.planner.bill import Bill
from hvdkit.planner.search import PARTS, Candidate, Plan
from hvdkit.planner.units import bytes_text, time_text
from hvdkit_cli.plan.figures import bill_for

_WIDTH_OF_A_FILE = 150


def print_plan(plan: Plan, steps: float | None, rows: int | None, console: Console) -> None:
    """Print a table of the candidates, and what to do.

    Args:
        plan: what was found.
        steps: of the whole training; None where its length is not known.
        rows: of the table; None for all.
        console: where to.
    """
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    usable = [each for each in plan.candidates if not each.problem]
    other = [each for each in plan.candidates if each.problem]
    shown = usable if rows is None else usable[:rows]
    console.print(_table(plan, shown, steps))
    if len(shown) < len(usable):
        console.print(f"and {len(usable) - len(shown)} slower ones: --all shows them.")
    _others(other, rows, console)
    _best(plan, steps, console)


def _table(plan: Plan, shown: list[Candidate], steps: float | None) -> Table:
    cluster = plan.cluster
    title = f"{plan.model.name}, {plan.model.parameters / 1e6:,.1f} M parameters, on {cluster.name}"
    kinds = ", ".join(f"{count} x {device.name}" for device, count in cluster.in_use())
    table = Table(title=f"{title}: {kinds}")
    bills = [bill_for(plan, each, steps) for each in shown]
    columns = ["mesh d·p·t", "exchange", "rows at once", "memory", "step", "compute", "exposed"]
    columns += ["bubble", "jitter", "FLOPs used", *_bill_columns(bills, cluster.currency)]
    for column in columns:
        table.add_column(column, justify="left" if column == "exchange" else "right")
    table.add_column("why not", overflow="fold")
    for each, bill in zip(shown, bills, strict=True):
        table.add_row(
            *_row(plan, each), *_bill_cells(bill, bills), plan.why(each) or "the best",
            style="bold" if each is plan.best else None,
        )  # fmt: skip
    return table


def _row(plan: Plan, each: Candidate) -> list[str]:
    step, degrees = each.step, each.degrees
    assert step is not None
    chunks = each.job.schedule.chunks
    return [
        f"{degrees.data}·{degrees.pipeline}·{degrees.tensor}",
        each.job.exchange.name if degrees.data > 1 else "-",
        f"{each.job.micro_batch}" + (f", {chunks} chunks" if chunks > 1 else ""),
        bytes_text(each.memory),
        time_text(step.total),
        *(f"{part / step.total:.0%}" for part in (step.compute + step.update, step.exposed)),
        *(f"{part / step.total:.0%}" for part in (step.bubble, step.jitter)),
        f"{plan.used(each):.1%}",
    ]


def _bill_columns(bills: list[Bill | None], currency: str) -> list[str]:
    names = {"seconds": "time", "kwh": "MWh", "kg_co2": "t CO2", "money": currency}
    return [title for name, title in names.items() if _known(bills, name)]


def _bill_cells(bill: Bill | None, bills: list[Bill | None]) -> list[str]:
    if bill is None:
        return []
    texts = {
        "seconds": time_text(bill.seconds),
        "kwh": f"{bill.kwh / 1000:,.3g}",
        "kg_co2": f"{bill.kg_co2 / 1000:,.3g}",
        "money": f"{bill.money:,.0f}",
    }
    return [text for name, text in texts.items() if _known(bills, name)]


def _known(bills: list[Bill | None], name: str) -> bool:
    return any(bill is not None and getattr(bill, name) > 0 for bill in bills)


def _others(other: list[Candidate], rows: int | None, console: Console) -> None:
    """Those that can't be used, by what stands against them."""
    shown = other if rows is None else other[: min(rows, 5)]
    for each in shown:
        line = f"{each.degrees}, {each.job.exchange.name}: {each.problem}"
        console.print(line, style="dim", highlight=False)
    if len(shown) < len(other):
        console.print(
            f"and {len(other) - len(shown)} more that can't be used: --all shows them.",
            style="dim",
            highlight=False,
        )


def _best(plan: Plan, steps: float | None, console: Console) -> None:
    best = plan.best
    assert best is not None
    assert best.step is not None
    degrees, exchange = best.degrees, best.job.exchange
    spent = sorted(PARTS, key=lambda part: -getattr(best.step, part))[:3]
    parts = ", ".join(
        f"{PARTS[part]} {getattr(best.step, part) / best.seconds:.0%}"
        for part in spent
        if getattr(best.step, part) > 0
    )
    console.print(
        f"\nBest: {degrees}"
        + (f", {exchange.name}" if degrees.data > 1 else "")
        + f": {time_text(best.seconds)} a step ({parts}).",
        style="bold",
        highlight=False,
    )
    call = f"hvd.Mesh(data={degrees.data}, pipeline={degrees.pipeline}, tensor={degrees.tensor})"
    if degrees.pipeline * degrees.tensor > 1:
        console.print(f"  {call}", highlight=False)
    count = best.job.batch // degrees.data // (best.job.micro_batch or 1)
    if degrees.pipeline > 1:
        schedule = best.job.schedule
        how = f"micro_batches={count}"
        how += f", schedule=schedules.{schedule!r}" if schedule.chunks > 1 else ""
        console.print(f"  hvd.parallel.PipelineModel(..., {how})", highlight=False)
    elif count > 1:
        console.print(f"  gradient_accumulation_steps={count}", highlight=False)
    if degrees.data > 1:
        console.print(
            f"  exchange={exchange.call}" if exchange.call
            else f"  hvdkit has no exchange that is {exchange.name}", highlight=False,
        )  # fmt: skip
    if not plan.cluster.equal and not best.job.share_rows:
        console.print(
            "  The devices differ and a step waits for the slowest: --share-rows plans with rows "
            "in proportion to speed (hvd.shard(weights=)).",
            highlight=False,
        )
    bill = bill_for(plan, best, steps)
    if bill is not None and steps is not None:
        console.print(f"  {steps:,.0f} steps take {time_text(bill.seconds)}.", highlight=False)
