"""A plan as figures with names: what is printed as JSON, and what tables show."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hvdkit.planner.bill import Bill, bill_on
from hvdkit.planner.search import Candidate, Plan


def bill_for(plan: Plan, candidate: Candidate, steps: float | None) -> Bill | None:
    """What the whole training takes; None where its length is not known."""
    if steps is None or candidate.problem:
        return None
    return bill_on(plan.cluster, steps * candidate.seconds)


def as_dictionary(plan: Plan, steps: float | None) -> dict[str, Any]:
    """All candidates, the fastest first, then those that can't be used."""
    best = plan.best
    return {
        "model": plan.model.name,
        "parameters": plan.model.parameters,
        "cluster": plan.cluster.name,
        "ranks": plan.cluster.ranks,
        "steps": steps,
        "best": None if best is None else _candidate(plan, best, steps),
        "candidates": [_candidate(plan, each, steps) for each in plan.candidates],
    }


def _candidate(plan: Plan, each: Candidate, steps: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "data": each.degrees.data,
        "pipeline": each.degrees.pipeline,
        "tensor": each.degrees.tensor,
        "exchange": each.job.exchange.name,
        "micro_batch": each.job.micro_batch,
        "chunks": each.job.chunks,
        "memory_bytes": round(each.memory),
        "usable": not each.problem,
        "why_not": plan.why(each),
    }
    if each.problem or each.step is None:
        return found
    found |= {
        "step_seconds": each.seconds,
        "rows_per_second": each.job.batch / each.seconds,
        "parts_seconds": asdict(each.step),
        "flops_used": plan.used(each),
    }
    bill = bill_for(plan, each, steps)
    if bill is not None:
        known = {"days": bill.days, "kwh": bill.kwh, "kg_co2": bill.kg_co2, "money": bill.money}
        found |= {name: value for name, value in known.items() if value}
    return found
