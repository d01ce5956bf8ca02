"""The loop beside a rank's script: its output and its end to the supervisor, signals to it."""

from __future__ import annotations

import os
import selectors
import signal
import time
from pathlib import Path

from hvdkit_cli.run.script import Script
from hvdkit_cli.run.signals import heard
from hvdkit_cli.run.wire import BEAT, BEAT_SECONDS, ERR, NEWS, OUT, Message, Wire, parsed

_TICK_SECONDS = 0.2
_READ_BYTES = 2**15
# With so much unsent, the script waits until the supervisor has taken some of it.
_MOST_UNSENT = 2**20
# Until a script that was told to end is killed.
_END_SECONDS = 3.0
# Until what a script has printed is read, where a process that it left behind holds the pipe.
_DRAIN_SECONDS = 1.0
# A daemon of MPI's on another host does not see that the host of its mpirun is gone.
_DAEMONS = ("prted", "orted", "hydra_pmi_proxy")


class Attendant:
    """What is beside a script while it runs.

    Args:
        wire: the connection to the supervisor.
        script: what runs.
        terms: the supervisor's first message, with `lost_seconds`: how long the other side may be
            silent until it is lost.
    """

    def __init__(self, wire: Wire, script: Script, terms: Message) -> None:
        self._wire = wire
        self._script = script
        self._lost_seconds = float(terms["lost_seconds"])
        self._kinds = dict(zip(script.pipes, (OUT, ERR), strict=True))
        self._reading: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._status: int | None = None
        self._drained_by: float | None = None
        self._reported = False
        self._released = False
        self._supervised = True
        self._heard = time.monotonic()
        self._kill_at: float | None = None

    def run(self) -> int:
        """Stay until the script has ended and the supervisor lets go; returns the exit status.

        Launchers end all ranks when the first one is gone. So it is not gone before the supervisor
        has heard what the others have to say.
        """
        self._listen_to_signals()
        self._selector.register(self._wire, selectors.EVENT_READ)
        self._tell({"type": "started", "pid": self._script.pid})
        next_beat = 0.0
        while not self._is_over():
            if self._supervised and time.monotonic() >= next_beat:
                self._tell(BEAT)
                next_beat = time.monotonic() + BEAT_SECONDS
            self._choose_what_to_read()
            for key, events in self._selector.select(_TICK_SECONDS):
                self._take(key.fd, events)
            self._look(time.monotonic())
        if not self._supervised:
            _end_daemon()
        assert self._status is not None
        return self._status if self._status >= 0 else 128 - self._status

    def _is_over(self) -> bool:
        if not self._supervised:
            return self._status is not None
        return self._reported and self._released

    def _listen_to_signals(self) -> None:
        self._bell, ring = os.pipe()
        for end in (self._bell, ring):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        for number in (*heard(), signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def _choose_what_to_read(self) -> None:
        if not self._supervised:
            return
        wanted = set(self._kinds) if self._wire.unsent < _MOST_UNSENT else set()
        for pipe in self._reading - wanted:
            self._selector.unregister(pipe)
        for pipe in wanted - self._reading:
            self._selector.register(pipe, selectors.EVENT_READ)
        self._reading = wanted
        writes = selectors.EVENT_WRITE if self._wire.unsent else 0
        self._selector.modify(self._wire, selectors.EVENT_READ | writes)

    def _take(self, fd: int, events: int) -> None:
        if fd == self._bell:
            for number in os.read(self._bell, 64):
                self._pass_on(signal.Signals(number))
        elif fd in self._kinds:
            self._read_pipe(fd)
        elif self._supervised:
            self._talk(events)

    def _read_pipe(self, pipe: int) -> None:
        data = os.read(pipe, _READ_BYTES)
        if data and self._supervised:
            try:
                self._wire.send(self._kinds[pipe], data)
            except ConnectionError:
                self._lose_supervisor()
        elif not data:
            self._selector.unregister(pipe)
            self._reading.discard(pipe)
            del self._kinds[pipe]

    def _talk(self, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._wire.flush()
            if events & selectors.EVENT_READ:
                self._heard = time.monotonic()
                for kind, content in self._wire.receive():
                    if kind == NEWS:
                        self._obey(parsed(content)["type"])
        except ConnectionError:
            self._lose_supervisor()

    def _tell(self, message: Message) -> None:
        if self._supervised:
            try:
                self._wire.tell(message)
            except ConnectionError:
                self._lose_supervisor()

    def _obey(self, order: str) -> None:
        if order == "release":
            self._released = True
        elif self._status is None and order == "ask":
            self._ask()
        elif order == "end":
            self._end_script()

    def _pass_on(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            return  # `_look` asks for the status
        if self._status is not None:
            self._released = True  # the launcher, or the scheduler, does not wait any longer
            return
        self._tell({"type": "signalled"})
        if number == signal.SIGUSR1:
            self._ask()
        else:
            self._script.signal(number)

    def _ask(self) -> None:
        if not self._script.ask() and self._kill_at is None:
            self._kill_at = time.monotonic() + _END_SECONDS

    def _end_script(self) -> None:
        if self._status is None and self._kill_at is None:
            self._script.signal(signal.SIGTERM)
            self._kill_at = time.monotonic() + _END_SECONDS

    def _look(self, now: float) -> None:
        if self._supervised and now - self._heard > self._lost_seconds:
            self._lose_supervisor()
        if self._status is None:
            self._status = self._script.status()
            self._drained_by = now + _DRAIN_SECONDS
        if self._status is None:
            if self._kill_at is not None and now >= self._kill_at:
                self._script.signal(signal.SIGKILL)
        elif not self._reported and (not self._kinds or now >= (self._drained_by or now)):
            self._tell({"type": "ended", "status": self._status})
            self._reported = True

    def _lose_supervisor(self) -> None:
        """Nobody watches over the job any more: end what is here of it."""
        if not self._supervised:
            return
        self._supervised = False
        self._selector.unregister(self._wire)
        self._wire.close()
        for pipe in self._reading:
            self._selector.unregister(pipe)
        self._reading = set()
        self._kinds = {}
        self._end_script()


def _end_daemon() -> None:
    parent = os.getppid()
    try:
        if Path(f"/proc/{parent}/comm").read_text().strip() in _DAEMONS:
            os.kill(parent, signal.SIGTERM)
    except OSError:
        return  # it has ended already, or is a scheduler's
