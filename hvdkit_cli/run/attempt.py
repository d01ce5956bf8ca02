"""One start of a job, from the launcher to the end of the last process."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hvdkit_cli.run.keyboard import standard_input
from hvdkit_cli.run.leftovers import end_leftovers
from hvdkit_cli.run.logs import Logs
from hvdkit_cli.run.outcome import End, Outcome
from hvdkit_cli.run.screen import Screen, Terminal
from hvdkit_cli.run.script import end_with_parent
from hvdkit_cli.run.server import Came, Ended, Event, Lost, Peer, Printed, Server
from hvdkit_cli.run.signals import Signals

_TICK_SECONDS = 0.1
# Other ranks may say within this what they know of a rank that has failed; hvdkit's watch does.
GRACE_SECONDS = 10.0
# Of a host that does not answer, and of what the launcher has ended, they know no more than this
# process does.
_CLEAR_GRACE_SECONDS = 2.0
# Ranks that are told to end are gone within this: a few seconds until they are killed.
END_SECONDS = 8.0
# The launcher has no reason to go on when all ranks have ended, on however many hosts.
_LAUNCHER_SECONDS = 10.0
# Nor have ranks without it.
ORPHANED_SECONDS = 5.0
_LAST_WORDS_SECONDS = 0.5
_READ_BYTES = 2**16


@dataclass(frozen=True)
class Limits:
    """Seconds that a job may take for what should be quick.

    Attributes:
        start: until all ranks have come.
        lost: how long a rank may be silent until it is lost.
    """

    start: float
    lost: float


class Attempt:
    """One start of a job whose ranks are the same from its start to its end.

    Args:
        ranks: number of ranks.
        hosts: the host of each rank, where that is known; else empty.
        server: where the ranks connect.
        screen: shows their output.
        terminal: for what the launcher says.
        logs: the log files.
        signals: what asks the job to end.
        limits: how long it waits.
    """

    def __init__(
        self,
        ranks: int,
        hosts: Sequence[str],
        server: Server,
        screen: Screen,
        terminal: Terminal,
        logs: Logs,
        signals: Signals,
        limits: Limits,
    ) -> None:
        self._ranks = ranks
        self._hosts = hosts
        self._server = server
        self._screen = screen
        self._terminal = terminal
        self._logs = logs
        self._signals = signals
        self._limits = limits
        self._selector = server.selector
        self._came: dict[int, Peer] = {}
        self._alive: set[Peer] = set()
        self._ends: list[End] = []
        self._missing: list[int] = []
        self._ends_at: float | None = None
        self._told_at: float | None = None
        self._released_at: float | None = None
        self._launcher_ended_at: float | None = None
        self._launcher_ended_first = False
        self._hung = False

    def run(self, command: Sequence[str], env: dict[str, str]) -> Outcome:
        """Start the launcher, and return when no process of the job is left that can be reached."""
        with standard_input() as (stdin, self._keyboard):
            return self._run(command, env, stdin)

    def _run(self, command: Sequence[str], env: dict[str, str], stdin: int) -> Outcome:
        self._started = time.monotonic()
        self._launcher = subprocess.Popen(
            command,
            env=env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            # Ctrl-C is for this process, which then asks the ranks.
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        )
        assert self._launcher.stdout is not None
        self._pipe = self._launcher.stdout.fileno()
        try:
            self._selector.register(self._pipe, selectors.EVENT_READ, self._pipe)
            self._selector.register(self._signals, selectors.EVENT_READ, self._signals)
            self._server.serve()
            while not self._is_over():
                self._listen_to_keyboard()
                ready = [key.data for key, _ in self._selector.select(_TICK_SECONDS)]
                self._take(ready, time.monotonic())
        finally:
            if self._launcher.poll() is None:
                self._end_launcher()
            self._launcher.stdout.close()
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(
            self._ends,
            [self._expected(rank) for rank in self._missing],
            self._launcher.returncode,
            self._launcher_ended_first,
            self._hung,
            self._signals.first,
            time.monotonic() - self._started,
        )

    def _is_over(self) -> bool:
        return (
            self._launcher_ended_at is not None
            and self._released_at is not None
            and (time.monotonic() - self._launcher_ended_at > _LAST_WORDS_SECONDS or self._pipe < 0)
        )

    def _listen_to_keyboard(self) -> None:
        keyboard = self._keyboard
        if keyboard is None:
            return
        is_heard = keyboard in self._selector.get_map()
        if keyboard.listens() and not is_heard:
            self._selector.register(keyboard, selectors.EVENT_READ, keyboard)
        elif is_heard and not keyboard.listens():
            self._selector.unregister(keyboard)

    def _take(self, ready: Sequence[object], now: float) -> None:
        if self._signals in ready:
            for number in self._signals.read():
                self._on_signal(number)
        if self._keyboard is not None and self._keyboard in ready:
            self._keyboard.pass_on()
        if self._pipe in ready:
            self._read_launcher()
        for event in self._server.events(ready, now):
            self._on_event(event, now)
        self._screen.look()
        if self._launcher_ended_at is None and self._launcher.poll() is not None:
            self._launcher_ended_at = now
            self._launcher_ended_first = self._released_at is None
        self._look(now)

    def _read_launcher(self) -> None:
        data = os.read(self._pipe, _READ_BYTES)
        if not data:
            self._selector.unregister(self._pipe)
            self._pipe = -1
            return
        self._logs.write("launcher", data)
        # What it says about ranks that have ended, they have said themselves.
        if not self._ends:
            self._terminal.write(2, data)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._signals.count > 1 or not self._alive:
            self._tell_to_end(time.monotonic())
            return
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        self._terminal.say(
            f"hvdkit run: {name}: the ranks are asked to save and end; once more ends them"
        )
        self._server.tell(list(self._alive), "ask")

    def _on_event(self, event: Event, now: float) -> None:
        if isinstance(event, Came):
            self._logs.write(self._log(event.peer), b"")  # there is one of each rank
            self._on_came(event.peer, now)
        elif isinstance(event, Printed):
            self._logs.write(self._log(event.peer), event.data)
            self._screen.printed(self._log(event.peer), event.data, is_error=event.is_error)
        elif event.peer in self._alive:
            self._alive.remove(event.peer)
            self._ends.append(self._end(event, now))
            self._on_end(event.peer, self._ends[-1], now)

    def _end(self, event: Ended | Lost, now: float) -> End:
        told, at = self._told_at is not None, now - self._started
        peer, signalled = event.peer, event.peer.signalled
        who, log = str(peer), self._log(peer)
        if isinstance(event, Ended):
            return End(peer.rank, who, log, event.status, at, told, signalled)
        return End(
            peer.rank, who, log, None, at, told, signalled, silent=event.is_silent, why=event.why
        )

    def _log(self, peer: Peer) -> str:
        return f"rank{peer.rank}"

    def _on_came(self, peer: Peer, now: float) -> None:
        self._came[peer.rank] = peer
        self._alive.add(peer)
        if self._told_at is not None or self._signals.first is not None:
            self._server.tell([peer], "end")

    def _on_end(self, peer: Peer, end: End, now: float) -> None:
        if end.status != 0:
            is_clear = end.silent or end.is_by_launcher
            due = now + (_CLEAR_GRACE_SECONDS if is_clear else GRACE_SECONDS)
            self._ends_at = min(due, self._ends_at or due)

    def _look(self, now: float) -> None:
        if self._told_at is None and self._must_end(now):
            self._tell_to_end(now)
        elif self._told_at is not None and now - self._told_at > END_SECONDS:
            self._give_up(now)
        if self._released_at is None and not self._alive and self._nobody_comes():
            self._release(now)
        if self._released_at is not None and self._launcher_ended_at is None:
            self._hung = now - self._released_at > _LAUNCHER_SECONDS
            if self._hung:
                self._end_launcher()

    def _must_end(self, now: float) -> bool:
        """Whether the job can't go on, or nobody needs it to."""
        is_complete = len(self._came) >= self._ranks
        late = not is_complete and now - self._started > self._limits.start
        patience = ORPHANED_SECONDS if self._alive else _LAST_WORDS_SECONDS
        gone = self._launcher_ended_at is not None and now - self._launcher_ended_at > patience
        failed = self._ends_at is not None and now > self._ends_at
        if (late or gone or failed) and not is_complete:
            self._missing = sorted(set(range(self._ranks)) - set(self._came))
        return late or failed or (gone and (bool(self._alive) or not is_complete))

    def _nobody_comes(self) -> bool:
        """Whether all ranks have come, or no more are wanted."""
        return self._told_at is not None or len(self._came) >= self._ranks

    def _tell_to_end(self, now: float) -> None:
        if self._told_at is None:
            self._told_at = now
        self._server.tell(list(self._alive), "end")

    def _give_up(self, now: float) -> None:
        for peer in list(self._alive):
            lost = Lost(peer, "its host does not answer any more", is_silent=True)
            self._on_event(lost, now)

    def _release(self, now: float) -> None:
        self._released_at = now
        self._server.tell(list(self._came.values()), "release")

    def _end_launcher(self) -> None:
        end_leftovers()
        self._launcher.wait()
        self._launcher_ended_at = time.monotonic()

    def _expected(self, rank: int) -> str:
        host = f" (host {self._hosts[rank]})" if rank < len(self._hosts) else ""
        return f"rank {rank}{host}"
