"""Faults, in the words of the one message that a job ends with."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hvdkit.watch.judge import Stall
from hvdkit.watch.messages import INTERRUPTED

HEAD = " hvdkit: the job failed "
_WIDTH = 78

# How `doing` of `stall` begins for a rank that waits itself.
WAITS = "it waits in"

# The launcher, the scheduler or a person ends a job with these.
ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})


@dataclass(frozen=True)
class Who:
    """A rank, as messages name it.

    Attributes:
        rank: its number.
        host: the name of its host.
        pid: its process id there.
    """

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def numbers(ranks: Iterable[int]) -> str:
    """Ranks in words: "rank 2", "ranks 0-3", "ranks 0, 2-3"."""
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"rank{'' if len(ordered) == 1 else 's'} {text}"


def block(title: str, body: str = "") -> str:
    """The message, marked off from what else the ranks print."""
    head = HEAD.center(_WIDTH, "=")
    text = "\n".join(part.rstrip() for part in (title, body) if part)
    return f"\n{head}\n{text}\n{'=' * _WIDTH}\n"


def write(text: str) -> None:
    """Print at once and as a whole, whatever Python's own files hold."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(2, data) :]


def was_ended_by_launcher(status: int) -> bool:
    """Whether a process ended by a signal that says "stop", and not by a fault."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in ENDING_SIGNALS


def death(who: Who, status: int | None, *, out_of_memory: bool = False) -> str:
    """A process that ended without an exception.

    Args:
        who: the rank.
        status: its wait status; None if nobody could see it.
        out_of_memory: whether the kernel has killed something for want of memory meanwhile.
    """
    if status is None:
        return block(
            f"{who} is gone: its connection closed and its exit status can't be seen from here.",
            "The launcher's lines below tell its signal or exit status.",
        )
    if not os.WIFSIGNALED(status):
        return early_exit(who, os.waitstatus_to_exitcode(status))
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    why = ""
    if number == signal.SIGKILL:
        why = (
            "The kernel's out-of-memory killer has been at work on this host since the job started."
            if out_of_memory
            else "Somebody sent it: a person, a batch system over a limit, or a memory limit."
        )
    elif number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        why = "Native code crashed; run with PYTHONFAULTHANDLER=1 to see where."
    elif number == signal.SIGUSR1:
        why = "It asks ranks to save and end; hvd.callbacks.BackupAndRestore listens to it."
    return block(f"{who} was ended by signal {number} ({name}).", why)


def lost(rank: int, who: Mapping[int, Who], gone: Collection[int]) -> str:
    """A rank's connection closed, and nobody on its host could say why.

    Args:
        rank: the rank.
        who: all ranks.
        gone: the ranks that do not answer any more.
    """
    host = who[rank].host
    there = [other for other in who if who[other].host == host]
    if len(there) == 1 or not set(there) <= set(gone):
        return death(who[rank], None)
    return block(
        f"{numbers(there)} are gone at once, all that were on host {host}.",
        "It has gone down, or all that ran on it was ended: a person, a batch system, a limit.",
    )


def silent(seconds: float) -> str:
    """What a rank does of which nothing has been heard for so long."""
    return (
        f"no heartbeat for {seconds:.0f} s: its process is stopped, or its host is gone "
        "or can't be reached"
    )


def early_exit(who: Who, status: int) -> str:
    """A process that ended by itself, by `sys.exit` or `os._exit`."""
    return block(
        f"{who} ended with exit status {status}, without an exception, while the job was running.",
        "Its script called sys.exit or os._exit, or raised SystemExit.",
    )


def launcher_gone(launcher: str, host: str) -> str:
    """The launcher, or its daemon on a host, ended before the ranks."""
    return block(
        f"the launcher of this job ({launcher}, host {host}) ended while it was running.",
        "Somebody killed it, or it lost another host; its own lines tell. Its ranks end, too.",
    )


def exceptions(found: Mapping[int, Mapping[str, Any]], who: Mapping[int, Who]) -> str:
    """Exceptions of one or more ranks; the cause first, the same error of several ranks once.

    Args:
        found: of each rank that raised: `name`, `message`, `traceback`, `status`, and `secondary`,
            whether it only says that another rank is gone.
        who: all ranks.
    """
    causes = _causes(found)
    first = first_cause(found)
    same = [r for r, e in causes.items() if _error(e) == _error(first)]
    hosts = sorted({who[r].host for r in same})
    where = (
        str(who[same[0]])
        if len(same) == 1
        else f"{numbers(same)} (host{'s' * (len(hosts) > 1)} {', '.join(hosts)}; "
        f"pids {', '.join(str(who[r].pid) for r in sorted(same))})"
    )
    interrupted = first["status"] == INTERRUPTED
    lines = [first["traceback"].rstrip()]
    lines += [
        f"{who[r]} raised, too: {e['name']}: {e['message']}"
        for r, e in sorted(causes.items())
        if r not in same
    ]
    title = f"Ctrl-C (SIGINT) interrupted {where}:" if interrupted else f"an exception on {where}:"
    return block(title, "\n".join(lines))


def first_cause(found: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The exception that a message shows whole; see `exceptions`."""
    causes = _causes(found)
    return causes[min(causes)]


def _causes(found: Mapping[int, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {r: e for r, e in found.items() if not e["secondary"]} or dict(found)


def _error(exception: Mapping[str, Any]) -> tuple[str, str]:
    return exception["name"], exception["message"]


def ended_early(
    left: Mapping[int, str], found: Mapping[int, Mapping[str, Any]], who: Mapping[int, Who]
) -> str:
    """Ranks have left by themselves, and others could not go on without them."""
    lines = [f"{who[r]} {why}." for r, why in sorted(left.items())]
    lines += [f"{who[r]} still needed it: {e['message']}" for r, e in sorted(found.items())]
    return block(f"{numbers(left)} left while other ranks still needed it:", "\n".join(lines))


def stall(
    found: Stall,
    limit: float,
    who: Mapping[int, Who],
    doing: Mapping[int, str],
    stacks: Mapping[int, Sequence[str]],
) -> str:
    """Ranks that waited too long.

    Args:
        found: who waits for whom, and where.
        limit: the seconds that were allowed.
        who: all ranks.
        doing: what each missing rank does instead, in words.
        stacks: where the main threads of missing ranks are, for those that answered.
    """
    why = (
        "no rank can come any more"
        if found.for_ever
        else f"the limit is {limit:g} s: stall_timeout of hvd.init"
    )
    waited = f"{numbers(found.waiting)} waited {found.seconds:.0f} s in {found.what} ({why})."
    if not found.missing:
        return block(
            waited,
            "All ranks have come, but it does not end: they may wait in collectives that do not "
            "match, or the data needs longer than the limit.",
        )
    lines = [waited]
    for rank in found.missing:
        lines.append(f"{who[rank]} is missing: {doing[rank]}.")
        lines += [f"    {line}" for line in stacks.get(rank, [])]
    if not found.for_ever:
        lines.append("A long pause of one rank can be declared: `with hvd.pause(...)`.")
    title = f"{numbers(found.missing)} stopped taking part:"
    if all(doing[rank].startswith(WAITS) for rank in found.missing):
        title = "the ranks wait for each other in different collectives:"
    return block(title, "\n".join(lines))
