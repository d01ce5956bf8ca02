"""Where the seconds of a test run go, which is printed at its end.

Each test file has a budget in `budgets.toml`. To be over it is said, and is no error: how long
something takes depends on the machine.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BUDGETS = Path(__file__).with_name("budgets.toml")
_SHOWN_SECONDS = 1.0


@dataclass
class _Pool:
    """The seconds of all pools of one kind of ranks."""

    starts: list[float] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0


_pools: dict[str, _Pool] = defaultdict(_Pool)
_jobs: list[tuple[str, float]] = []
_notes: list[str] = []


def note(line: str) -> None:
    """Print a line at the end of the run."""
    _notes.append(line)


def pool_started(ranks: str, seconds: float) -> None:
    """Note how long some ranks took until they could run checks."""
    _pools[ranks].starts.append(seconds)


def check_ended(ranks: str, check: str, seconds: float, cpu: float) -> None:
    """Note how long a check took until its last rank had ended it, and all their CPU time."""
    _pools[ranks].checks[check] = seconds
    _pools[ranks].cpu += cpu


def job_ended(argv: Sequence[str], seconds: float) -> None:
    """Note how long a job of its own took, from its start to its end."""
    _jobs.append((" ".join(argv[-3:])[-80:].replace("\n", " "), seconds))


def collected() -> dict[str, Any]:
    """What has been noted, as plain data, for another process."""
    pools = {
        ranks: [list(pool.starts), dict(pool.checks), pool.cpu] for ranks, pool in _pools.items()
    }
    return {"pools": pools, "jobs": [list(job) for job in _jobs], "notes": list(_notes)}


def add(noted: Mapping[str, Any]) -> None:
    """Note what another process has `collected`."""
    for ranks, (starts, checks, cpu) in noted["pools"].items():
        _pools[ranks].starts += starts
        _pools[ranks].checks |= checks
        _pools[ranks].cpu += cpu
    _jobs.extend((name, seconds) for name, seconds in noted["jobs"])
    _notes.extend(noted["notes"])


def summary(by_file: Mapping[str, float]) -> Iterator[str]:
    """The lines to print.

    Args:
        by_file: seconds of each test file, by its path in `tests`.
    """
    yield from _notes
    for ranks, pool in _pools.items():
        yield (
            f"{ranks}: {len(pool.starts)} starts {sum(pool.starts):.1f} s, "
            f"{len(pool.checks)} checks {sum(pool.checks.values()):.1f} s "
            f"({pool.cpu:.0f} s of CPUs)"
        )
        yield from _longest(pool.checks.items())
    if _jobs:
        yield f"{len(_jobs)} jobs of their own: {sum(s for _, s in _jobs):.1f} s"
        yield from _longest(_jobs)
    budgets = tomllib.loads(_BUDGETS.read_text())["seconds"]
    for file, seconds in sorted(by_file.items(), key=lambda entry: -entry[1]):
        if seconds < _SHOWN_SECONDS:
            continue
        budget = budgets.get(file)
        limit = "no budget" if budget is None else f"budget {budget} s"
        over = "  OVER ITS BUDGET" if budget is not None and seconds > budget else ""
        yield f"{seconds:7.1f} s  {file} ({limit}){over}"
    yield f"{sum(by_file.values()):7.1f} s  together (budget {sum(budgets.values())} s)"


def _longest(entries: Iterator[tuple[str, float]] | Sequence[tuple[str, float]]) -> Iterator[str]:
    for name, seconds in sorted(entries, key=lambda entry: -entry[1]):
        if seconds >= _SHOWN_SECONDS:
            yield f"  {seconds:6.1f} s  {name}"
