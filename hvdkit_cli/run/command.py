"""`hvdkit run` from its command line to its exit status."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.errors import CommandError
from hvdkit_cli.launched import without_rank
from hvdkit_cli.run.addresses import reachable
from hvdkit_cli.run.attempt import Attempt, Limits
from hvdkit_cli.run.elastic import ElasticAttempt
from hvdkit_cli.run.hosts import by_rank, counted, total
from hvdkit_cli.run.launchers import choose
from hvdkit_cli.run.launchers.base import Launcher
from hvdkit_cli.run.leftovers import adopt_orphans, end_leftovers
from hvdkit_cli.run.logs import Logs, default_folder
from hvdkit_cli.run.outcome import Outcome
from hvdkit_cli.run.places import find_place
from hvdkit_cli.run.request import Job, Request
from hvdkit_cli.run.screen import Everything, Quiet, Screen, Terminal
from hvdkit_cli.run.server import Server
from hvdkit_cli.run.signals import Signals
from hvdkit_cli.run.words import report

# The wait before a job is started again doubles, up to this.
_LONGEST_WAIT_SECONDS = 30.0
_RESTART_VARIABLE = "HVDKIT_RESTART"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# -P: a file of the user's that is called as one of Python's modules stays out of it.
RANK_COMMAND = [sys.executable, "-P", "-m", "hvdkit_cli.run.rank"]


@dataclass(frozen=True)
class Options:
    """How a job is watched over.

    Attributes:
        log_dir: the folder for logs; None for a new one below the working folder.
        restarts: how often a job is started again after a fault of machines.
        limits: how long it waits.
        shows_all: whether the output of all ranks is shown.
    """

    log_dir: Path | None
    restarts: int
    limits: Limits
    shows_all: bool


def dry_run(request: Request) -> str:
    """The command line that starts the ranks, as a shell takes it."""
    job = make_job(request, os.environ)
    return choose(job).shown(job)


def run(request: Request, options: Options) -> int:
    """Run a job to its end, with restarts; returns its exit status.

    Raises:
        CommandError: it can't be started as it is asked for.
    """
    _open_closed_files()
    job = make_job(request, os.environ)
    launcher = choose(job)
    terminal = Terminal()
    warn = lambda text: terminal.say(f"hvdkit run: warning: {text}")  # noqa: E731
    logs = Logs(options.log_dir or default_folder(), warn)
    terminal.say(f"hvdkit run: {_described(job, launcher)}; logs in {logs.folder}")
    adopt_orphans()
    with Signals() as signals:
        terminal.is_told_to_end = lambda: signals.first is not None
        for start in range(options.restarts + 1):
            logs.begin(start)
            screen = _screen(options, terminal)
            outcome = _started(start, job, launcher, options, screen, terminal, logs, signals)
            _say_end(outcome, launcher, screen, terminal, logs)
            if not _starts_again(outcome, start, options.restarts, terminal, signals):
                break
    logs.close()
    return outcome.status()


def make_job(request: Request, environ: Mapping[str, str]) -> Job:
    """The job that a command line asks for, in an environment.

    Raises:
        CommandError: the number of ranks is not known, or they do not fit.
    """
    place = find_place(request, environ)
    ranks = request.ranks or (request.elastic[0] if request.elastic else place.default)
    if ranks is None:
        raise CommandError(
            f"How many ranks {place.source} takes is not known.", "add -np N, for example -np 2"
        )
    if request.elastic and not request.elastic[0] <= ranks <= request.elastic[1]:
        raise CommandError(
            f"-np {ranks} is not within --elastic {request.elastic[0]}:{request.elastic[1]}.",
            "leave -np out to start with the fewest",
        )
    slots = total(place.hosts)
    if place.hosts and slots is not None and ranks > slots and not request.oversubscribe:
        raise CommandError(
            f"{ranks} ranks do not fit: there are {slots} slots on {len(place.hosts)} host(s), "
            f"counted from {place.source}.",
            f"use -np {slots} or less, name more hosts or slots or ask the scheduler for more, "
            "or add --oversubscribe: ranks then share cores and each runs slower",
        )
    env = without_rank(environ)
    for variable in request.variables:
        name, given, value = variable.partition("=")
        if given:
            env[name] = value
        elif name not in env:
            raise CommandError(
                f"-x {name}: there is no such variable in the environment.",
                f"export it before, or give its value: -x {name}=VALUE",
            )
    return Job(request, place, ranks, env)


def _open_closed_files() -> None:
    """Keep the places of standard input, output and error, which the next files would get."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one


def _described(job: Job, launcher: Launcher) -> str:
    """A job in a line."""
    hosts = by_rank(job.place.hosts, job.ranks)
    count = f"{job.ranks} rank{'' if job.ranks == 1 else 's'}"
    if job.request.elastic is not None:
        fewest, most = job.request.elastic
        count = f"{fewest} to {most} ranks, {job.ranks} at first,"
    why = "" if job.request.ranks or job.request.elastic else f" (-np: {job.place.why})"
    where = f" on {counted(hosts)}" if hosts else ""
    return f"{count}{why}{where} by {launcher.in_words}"


def _screen(options: Options, terminal: Terminal) -> Screen:
    if options.shows_all:
        return Everything(terminal)
    asked = os.environ.get("HVDKIT_LOG_LEVEL", "").upper() == "DEBUG"
    return Quiet(terminal, filters=not asked and os.environ.get(_LOG_LEVEL) != "0")


def _started(
    start: int,
    job: Job,
    launcher: Launcher,
    options: Options,
    screen: Screen,
    terminal: Terminal,
    logs: Logs,
    signals: Signals,
) -> Outcome:
    kind = Attempt if job.request.elastic is None else ElasticAttempt
    hosts = by_rank(job.place.hosts, job.ranks)
    addresses = reachable(job.place.hosts, job.request.interface)
    server = Server(addresses, options.limits.lost)
    attempt = kind(job.ranks, hosts, server, screen, terminal, logs, signals, options.limits)
    command = launcher.command(job, [*RANK_COMMAND, *job.request.command])
    # TensorFlow's messages are left out here, and not in the logs.
    quiet = {_LOG_LEVEL: job.environ.get(_LOG_LEVEL, "0")}
    own = {_RESTART_VARIABLE: str(start), **server.variables()}
    try:
        return attempt.run(command, {**job.environ, **quiet, **own})
    except OSError as error:
        raise CommandError(f"{command[0]} can't be started: {error}.", "hvdkit doctor") from error
    finally:
        server.close()
        end_leftovers()


def _say_end(
    outcome: Outcome, launcher: Launcher, screen: Screen, terminal: Terminal, logs: Logs
) -> None:
    is_explained = screen.close()
    name = launcher.in_words
    lines = report(outcome, name, logs, leader=screen.leader, is_explained=is_explained)
    if lines:
        terminal.say("\n".join(lines))


def _starts_again(
    outcome: Outcome, start: int, restarts: int, terminal: Terminal, signals: Signals
) -> bool:
    """Whether a job that has ended is started once more; waits until then."""
    if restarts == 0 or outcome.status() == 0 or outcome.signal is not None:
        return False
    if not outcome.is_fault_of_machines():
        terminal.say("hvdkit run: not started again: the script's own error would come again.")
        return False
    if start == restarts:
        terminal.say(f"hvdkit run: not started again: {restarts} restarts were allowed.")
        return False
    wait = min(2.0**start, _LONGEST_WAIT_SECONDS)
    terminal.say(f"hvdkit run: starting again in {wait:.0f} s (restart {start + 1} of {restarts}).")
    end = time.monotonic() + wait
    while signals.first is None and time.monotonic() < end:
        select.select([signals], [], [], end - time.monotonic())
    return signals.first is None
