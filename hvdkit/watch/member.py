"""The thread by which a rank tells what it does, sees its neighbours end, and ends itself."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from hvdkit.watch import report
from hvdkit.watch.activity import Activity
from hvdkit.watch.launcher import Launcher
from hvdkit.watch.links import Meter
from hvdkit.watch.messages import EXIT_STATUS, Line, Message
from hvdkit.watch.printer import Printer
from hvdkit.watch.processes import Process, out_of_memory_kills, outlive_launcher
from hvdkit.watch.report import Who
from hvdkit.watch.stacks import script_stacks
from hvdkit.watch.tensorflow_log import hide_warnings

BEAT_SECONDS = 1.0
_LOOK_AT_LINKS_SECONDS = 2.0
# `os._exit` as it is before the watch takes its place.
end_process = os._exit

# Who ends by a signal that launchers send may be the first of all ranks that are ended.
_LAUNCHER_SECONDS = 1.0
# Who lost the launcher may hear from a hub by then which host is behind that.
_LAUNCHER_GONE_SECONDS = 3.0
# A hub answers a report within this, or it is gone.
_HUB_SECONDS = 2.0
_OTHERS_SECONDS = 1.0
_SERVE_SECONDS = 0.3  # until the hub's last message has come to other hosts
_FLUSH_SECONDS = 0.3


class Member:
    """A rank's side of the watch.

    Args:
        who: all ranks.
        activity: what this rank does.
        hubs: the connections to the hubs.
        processes: the processes of the other ranks on this host.
        printer: prints the job's message.
        serves: whether a hub is in this process.
        launcher: what has started the ranks of this host, where it has to be watched.
    """

    def __init__(
        self,
        who: Mapping[int, Who],
        activity: Activity,
        hubs: Sequence[Line],
        processes: Mapping[int, Process],
        printer: Printer,
        *,
        serves: bool,
        launcher: Launcher | None = None,
    ) -> None:
        self._who = who
        self._activity = activity
        self._printer = printer
        self._serves = serves
        self._launcher = launcher
        self._meter = Meter() if len({rank.host for rank in who.values()}) > 1 else None
        self._hubs = list(hubs)
        self._processes = dict(processes)
        self._out_of_memory = out_of_memory_kills()
        self._outbox: deque[Message] = deque()
        self._due: dict[int, tuple[float, int]] = {}
        self._end_at: float | None = None
        self._launcher_due: float | None = None
        self._over = threading.Event()
        self._may_leave = threading.Event()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="hvdkit-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._selector.register(self._bell, selectors.EVENT_READ)
        for line in self._hubs:
            self._selector.register(line, selectors.EVENT_READ)
        for process in self._processes.values():
            self._selector.register(process, selectors.EVENT_READ)
        if self._launcher is not None:
            self._selector.register(self._launcher.process, selectors.EVENT_READ)
        self._thread.start()

    @property
    def heard(self) -> bool:
        """Whether a hub is there to hear this rank."""
        return bool(self._hubs)

    def tell(self, message: Message | None = None) -> None:
        """Send a message and the news of this rank to the hubs, at once; from any thread."""
        if message is not None:
            self._outbox.append(message)
        try:
            self._ring.send(b"!")
        except (BlockingIOError, OSError):
            return  # it has been rung already, or nobody is there any more

    def wait_for_end(self, seconds: float) -> None:
        """Wait for the hubs to end this process; returns if they do not."""
        self._may_leave.wait(seconds)

    def wait_for_others(self) -> None:
        """Wait until no rank needs this one any more, or until nobody is there to say so."""
        self._may_leave.wait()

    def stop(self, *, final: bool) -> None:
        """Watch no longer, and say so to the hubs.

        Args:
            final: whether whatever comes after is no fault of the job any more.
        """
        self._over.set()
        self.tell({"type": "goodbye", "final": final})
        self._thread.join(2 * BEAT_SECONDS)

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self._may_leave.set()

    def _watch(self) -> None:
        next_beat = next_look = 0.0
        while not self._over.is_set() or self._outbox:
            now = time.monotonic()
            if now >= next_beat and not self._over.is_set():
                # What came while this process was stopped, first: sending to a hub that has ended
                # since would take its last message away.
                self._hear(0.0)
                self._outbox.append({"type": "beat", "state": self._activity.state()})
                next_beat = now + BEAT_SECONDS
                if self._meter is not None and now >= next_look:
                    self._outbox.append({"type": "links", "speeds": self._meter.speeds()})
                    next_look = now + _LOOK_AT_LINKS_SECONDS
            self._send()
            wake = min([next_beat, *self._times()])
            if self._hear(max(0.0, wake - time.monotonic())):
                next_beat = 0.0
            self._act_when_due(time.monotonic())
        self._send()
        for line in self._hubs:
            line.close()
        for process in self._processes.values():
            process.close()
        if self._launcher is not None:
            self._launcher.close()
        self._selector.close()

    def _hear(self, seconds: float) -> bool:
        """Wait for what happens, and act on it; True if this rank wants to be heard."""
        rung = False
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._bell:
                self._bell.recv(4096)
                rung = True
            elif isinstance(key.fileobj, Line):
                self._listen(key.fileobj)
            elif isinstance(key.fileobj, Process):
                self._see_end(key.fileobj)
        return rung

    def _send(self) -> None:
        while self._outbox:
            message = self._outbox.popleft()
            for line in list(self._hubs):
                if not line.send(message):
                    self._forget(line)

    def _forget(self, line: Line) -> None:
        self._hubs.remove(line)
        if not self._hubs:
            self._may_leave.set()
        self._selector.unregister(line)
        line.close()

    def _listen(self, line: Line) -> None:
        try:
            for message in line.receive():
                self._obey(message)
        except ConnectionError:
            self._forget(line)

    def _obey(self, message: Message) -> None:
        kind = message["type"]
        if kind == "end":
            self._end(message["kill"], message["status"])
        elif kind == "stack":
            self._outbox.append({"type": "stack", "lines": script_stacks()})
        elif kind == "leave":
            self._may_leave.set()
        elif kind == "done":
            self._ignore(message["rank"])
        elif kind == "ending":
            # A rank goes, and Horovod ends on all. What TensorFlow logs about that, the job's
            # message says, for which this rank has to live until it knows the other's exit status.
            hide_warnings()
            outlive_launcher()

    def _ignore(self, rank: int) -> None:
        process = self._processes.pop(rank, None)
        if process is not None:
            self._selector.unregister(process)
            process.close()

    def _see_end(self, process: Process) -> None:
        if self._launcher is not None and process is self._launcher.process:
            self._selector.unregister(process)
            self._launcher_due = time.monotonic() + _LAUNCHER_GONE_SECONDS
            return
        rank = next((r for r, p in self._processes.items() if p is process), None)
        if rank is None:  # it is ignored since a moment ago
            return
        status = process.status()
        self._ignore(rank)
        if status is None:
            return  # the hubs see its connection close
        if status == 0:
            self._outbox.append({"type": "ended", "rank": rank})
        elif report.was_ended_by_launcher(status):
            self._due[rank] = (time.monotonic() + _LAUNCHER_SECONDS, status)
        else:
            self._report(rank, status)

    def _times(self) -> list[float]:
        """When something is due."""
        times = [due for due, _ in self._due.values()]
        return times + [due for due in (self._end_at, self._launcher_due) if due is not None]

    def _act_when_due(self, now: float) -> None:
        for rank, (due, status) in list(self._due.items()):
            if now >= due:
                del self._due[rank]
                self._report(rank, status)
        if self._launcher_due is not None and now >= self._launcher_due:
            self._launcher_due = None
            self._fault(report.launcher_gone(str(self._launcher), socket.gethostname()))
        if self._end_at is not None and now >= self._end_at:
            self._end([], EXIT_STATUS)

    def _report(self, rank: int, status: int) -> None:
        out_of_memory = out_of_memory_kills() > self._out_of_memory
        self._fault(report.death(self._who[rank], status, out_of_memory=out_of_memory))

    def _fault(self, text: str) -> None:
        """Say what this rank has seen; the hubs end the job."""
        self._printer.say(text)
        self._outbox.append({"type": "fault"})
        self._end_at = time.monotonic() + (_HUB_SECONDS if self._hubs else 0.0)

    def _end(self, kill: Sequence[int], status: int) -> None:
        """End this process, whatever its main thread is blocked in."""
        for rank in kill:
            if rank in self._processes:
                self._processes[rank].kill()
        _flush()
        # What Horovod and TensorFlow have to say about the end of the others helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if self._printer.claim():
            if self._launcher is not None:
                self._launcher.end_if_it_waits()
            # The one that speaks goes last, so that nobody else takes the others' end for a fault.
            self._outlive_others()
        elif self._serves:
            time.sleep(_SERVE_SECONDS)
        end_process(status)

    def _outlive_others(self) -> None:
        end = time.monotonic() + _OTHERS_SECONDS
        while time.monotonic() < end and not all(p.ended for p in self._processes.values()):
            time.sleep(0.02)
        for process in self._processes.values():
            process.kill()


def _flush() -> None:
    """What the script has printed should be seen; but whoever holds the file may be blocked."""

    def flush() -> None:
        sys.stdout.flush()
        sys.stderr.flush()

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    thread.join(_FLUSH_SECONDS)
