"""What the driver makes of the ends of the ranks: their results, or one error."""

from __future__ import annotations

import pickle
import re
import signal
from collections.abc import Mapping
from typing import Any

from hvdkit.errors import CollectiveError, FunctionError
from hvdkit.jobs.keeper import Outcome
from hvdkit.watch.report import HEAD
from hvdkit_cli.rank import Ended


def result_of(outcome: Outcome) -> Any:
    """What the function returned on a rank."""
    assert outcome.ended is not None
    assert outcome.ended.value is not None
    return pickle.loads(outcome.ended.value)


def first_failure(outcomes: Mapping[int, Outcome]) -> FunctionError | None:
    """The error of the rank that failed first; None where none has.

    Args:
        outcomes: how ranks ended; of those that have ended only.

    Returns:
        The error, with the rank's traceback, and its exception as the cause where it can be
        brought here; or with the message of the watch, or what the rank printed last.
    """
    failed = {rank: outcome for rank, outcome in outcomes.items() if outcome.failed}
    if not failed:
        return None
    rank = min(failed, key=lambda r: (_blame(failed[r]), r))
    if failed[rank].ended is not None:
        rank = cause_of({r: o.ended for r, o in failed.items() if o.ended is not None})
    at = failed[rank]
    if at.ended is not None:
        error = FunctionError(f"on rank {rank} (host {at.host}):\n{at.ended.text}", rank)
        if at.ended.error is not None:
            error.__cause__ = pickle.loads(at.ended.error)
        return error
    message = next(filter(None, map(_message_of_watch, failed.values())), "")
    if not at.pid:
        lost = "\n".join([f"rank {rank} (host {at.host}) was lost:", *at.lines, message])
        return FunctionError(lost.rstrip(), rank)
    if message:
        named = re.search(r"\branks? (\d+)", message)
        return FunctionError(message, int(named[1]) if named else rank)
    where = f"rank {rank} (host {at.host}, pid {at.pid})"
    lines = [f"{where} {_how(at.status)}, without a result; it printed last:", *at.lines]
    return FunctionError("\n".join(lines), rank)


def cause_of(ends: Mapping[int, Ended]) -> int:
    """The rank whose error is the cause of the others; the lowest of those that raised the same."""
    first = min(ends, key=lambda rank: (_follows(ends[rank].text), ends[rank].time, rank))
    return min(r for r in ends if _raised(ends[r].text) == _raised(ends[first].text))


def _blame(outcome: Outcome) -> tuple[int, float]:
    """Which failure is the cause of the others: the smallest."""
    if outcome.ended is not None:
        return (2 if _follows(outcome.ended.text) else 0), outcome.ended.time
    # The watch ends the others with status 1, the driver with SIGTERM.
    return (3 if outcome.pid and outcome.status in (1, -signal.SIGTERM) else 1), 0.0


def _message_of_watch(outcome: Outcome) -> str | None:
    """What the watch has printed on a rank, without the lines around it."""
    begin = next((i for i, line in enumerate(outcome.lines) if HEAD in line), None)
    if begin is None:
        return None
    message = outcome.lines[begin + 1 :]
    end = next((i for i, line in enumerate(message) if line.startswith("====")), len(message))
    return "\n".join(message[:end])


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with exit status {status}"


def _follows(text: str) -> bool:
    """Whether a rank failed only because another had."""
    return CollectiveError.__name__ in _raised(text)


def _raised(text: str) -> str:
    """What a traceback ends with: where the error was raised, and the error."""
    return text.rpartition("\n  File ")[2]
