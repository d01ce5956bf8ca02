"""What the driver makes of the ends of the ranks: their results, or one error."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Mapping
from typing import Any

from hvdkit.errors import CollectiveError, FunctionError
from hvdkit.jobs.keeper import Outcome


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
        brought here.
    """
    told = {rank: o.ended for rank, o in outcomes.items() if o.ended is not None and o.ended.text}
    if told:
        rank = min(told, key=lambda r: (_follows(told[r].text), told[r].time))
        at = outcomes[rank]
        error = FunctionError(f"on rank {rank} (host {at.host}):\n{told[rank].text}", rank)
        if (cause := told[rank].error) is not None:
            error.__cause__ = pickle.loads(cause)
        return error
    silent = [rank for rank, outcome in outcomes.items() if outcome.ended is None]
    if not silent:
        return None
    # The others were ended by the watch, with status 1, or by the driver.
    rank = min(silent, key=lambda r: (outcomes[r].status in (1, -signal.SIGTERM), r))
    at = outcomes[rank]
    where = f"host {at.host}, pid {at.pid}" if at.pid else f"host {at.host}"
    how = f"{_how(at.status)}, without a result; it printed last:" if at.pid else "was lost:"
    return FunctionError(f"rank {rank} ({where}) {how}\n" + "\n".join(at.lines), rank)


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with exit status {status}"


def _follows(text: str) -> bool:
    """Whether a rank failed only because another had."""
    return CollectiveError.__name__ in text.rpartition("\n  File ")[2]
