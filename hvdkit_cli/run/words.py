"""How a start of a job ended, in words."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from hvdkit_cli.run.logs import Logs
from hvdkit_cli.run.outcome import SAVED, End, Outcome, in_words

_PREFIX = "hvdkit run: "
_LINES_SHOWN = 15


def ranks(numbers: Iterable[int]) -> str:
    """Ranks in words: "rank 2", "ranks 0, 2, 3"."""
    ordered = sorted(numbers)
    return f"rank{'' if len(ordered) == 1 else 's'} {', '.join(map(str, ordered))}"


def report(
    outcome: Outcome, launcher: str, logs: Logs, *, leader: str, is_explained: bool
) -> list[str]:
    """The lines that say how a start of a job ended; none where all is well.

    Args:
        outcome: how it ended.
        launcher: what the launcher is called.
        logs: the log files.
        leader: the log of the rank whose output has been shown; empty where all have been.
        is_explained: whether the ranks have shown why it failed.
    """
    lines = _success(outcome, launcher) if outcome.status() == 0 else []
    if outcome.status() != 0:
        lines = _asked(outcome) or _failure(outcome, launcher, logs, leader, is_explained)
    return [_PREFIX + lines[0], *lines[1:]] if lines else []


def _success(outcome: Outcome, launcher: str) -> list[str]:
    if outcome.hung:
        return [f"note: all ranks have ended well, but {launcher} had not, and was ended."]
    if outcome.launcher != 0:
        end = _status(outcome.launcher)
        return [f"note: all ranks have ended well; {launcher} itself {end} (see launcher.log)."]
    return []


def _asked(outcome: Outcome) -> list[str]:
    """Where the job was asked to end."""
    if outcome.signal is None:
        return []
    name = "Ctrl-C" if outcome.signal == signal.SIGINT else outcome.signal.name
    if outcome.status() == SAVED:
        return [f"the ranks were told to end by {name}, and have saved (status {SAVED})."]
    return [
        f"the job was ended by {name}, and nothing says that it has saved "
        "(hvd.callbacks.BackupAndRestore does)."
    ]


def _failure(
    outcome: Outcome, launcher: str, logs: Logs, leader: str, is_explained: bool
) -> list[str]:
    said = logs.path("launcher")
    if outcome.has_not_started:
        return _missing(outcome, launcher, said)
    if outcome.ended_by_launcher:
        end = _status(outcome.launcher)
        return [f"error: {launcher} has ended the ranks, and {end}; what it said is in {said}."]
    cause = outcome.cause
    if cause is None or outcome.lost_its_launcher:
        end = _status(outcome.launcher)
        when = "while ranks were running" if outcome.ends else "before a rank had started"
        return [f"error: {launcher} {end} {when}; what it said is in {said}."]
    if cause.status == SAVED:
        return [f"{cause.who} has saved and ended (status {SAVED}), and so has the job."]
    lines = [f"error: the job failed after {cause.at:.0f} s: {cause.who} {in_words(cause)}."]
    lines += _others(outcome, cause)
    return lines + _log(cause, logs, leader, is_explained)


def _missing(outcome: Outcome, launcher: str, said: Path) -> list[str]:
    names = ", ".join(outcome.missing)
    if outcome.launcher_ended_first or outcome.cause is not None:
        end = _status(outcome.launcher)
        return [f"error: {launcher} {end} before {names} had started; see above, and {said}."]
    lines = [f"error: {names} did not start within {outcome.seconds:.0f} s."]
    lines += [f"  remedy: see {said}; can these hosts be reached (ssh HOST true), and do they have"]
    return [*lines, "    hvdkit? Where starting takes long: --start-timeout SECONDS."]


def _others(outcome: Outcome, cause: End) -> list[str]:
    ways: dict[str, list[int]] = {}
    for end in outcome.ends:
        if end is not cause and end.is_fault and not end.is_by_launcher:
            ways.setdefault(in_words(end), []).append(end.rank)
    lines = [f"  {ranks(numbers)} {way}, too." for way, numbers in ways.items()]
    told = [end.rank for end in outcome.ends if end.told and not end.is_fault]
    by_launcher = [end.rank for end in outcome.ends if end.is_by_launcher and not end.told]
    for who, numbers in (("hvdkit run", told), ("the launcher", by_launcher)):
        lines += [f"  {who} has ended {ranks(numbers)}."] if numbers else []
    return lines


def _log(cause: End, logs: Logs, leader: str, is_explained: bool) -> list[str]:
    path = logs.path(cause.log)
    last: Sequence[str] = () if is_explained else logs.tail(cause.log, _LINES_SHOWN)
    if not last or last[-1] in logs.tail(leader, _LINES_SHOWN):
        return [f"  its log: {path}"]
    return [f"  the last lines of its log, {path}:", *(f"    {line}" for line in last)]


def _status(status: int) -> str:
    number = -status if status < 0 else status - 128  # a shell has told it
    if number in set(signal.Signals):
        return f"was ended by signal {number} ({signal.Signals(number).name})"
    return f"ended with exit status {status}"
