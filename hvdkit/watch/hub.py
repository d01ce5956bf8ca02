"""The place to which all ranks tell what they do, and which ends the job when one fails."""

from __future__ import annotations

import hmac
import logging
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hvdkit.watch import report
from hvdkit.watch.judge import Stall, State, WaitingClock, find_needed, find_stall
from hvdkit.watch.links import Links
from hvdkit.watch.messages import EXIT_STATUS, Line, Message
from hvdkit.watch.printer import Printer
from hvdkit.watch.processes import outlive_launcher
from hvdkit.watch.report import Who

# How long the stand-by leaves the main hub to act.
STANDBY_SECONDS = 2.5

_LOOK_SECONDS = 0.25
# A rank on the host of a dead one knows its exit status, and says so within this.
_LAST_NEWS_SECONDS = 0.5
# Nobody knows more of one that was alone on its host; unless a launcher is ending them all.
_ALONE_SECONDS = 0.05
# Errors that all ranks raise do not come at the same moment.
_QUIET_SECONDS = 1.0
_LONGEST_SECONDS = 2.5
# A process that has come to its script's end needs some time to end: far less, on a host that is
# not overloaded.
_EXIT_SECONDS = 7.0
_STACK_SECONDS = 1.0
# A hub that has not run for this long has been stopped itself.
_ABSENT_SECONDS = 3.0


class Hub:
    """A thread that listens to all ranks.

    Args:
        listener: where ranks connect; closed when all have.
        who: all ranks.
        token: what a connection has to begin with.
        limit: seconds that ranks may wait for another one.
        printer: prints the job's message.
        links: judges the network between the hosts.
        standby: whether another hub, on rank 0, acts first.
    """

    def __init__(
        self,
        listener: socket.socket,
        who: Mapping[int, Who],
        token: str,
        limit: float,
        printer: Printer,
        links: Links,
        *,
        standby: bool,
    ) -> None:
        self._who = who
        self._token = token
        self._limit = limit
        self._printer = printer
        self._links = links
        self._standby = standby
        self._clock = WaitingClock()
        self._states = {rank: State(time.monotonic()) for rank in who}
        self._lines: dict[int, Line] = {}
        self._gone: set[int] = set()
        self._finished: set[int] = set()
        self._lost: dict[int, float] = {}
        self._raised: dict[int, dict[str, Any]] = {}
        self._raised_at: list[float] = []
        self._exited: dict[int, tuple[int, float]] = {}
        self._dismissed: set[int] = set()
        hosts = Counter(rank.host for rank in who.values())
        self._seen = {rank for rank in who if hosts[who[rank].host] > 1}
        self._stall: tuple[Stall, float] | None = None
        self._stacks: dict[int, list[str]] = {}
        self._selector = selectors.DefaultSelector()
        self._ended = False
        self._over = threading.Event()
        self._listener = listener
        self._listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="hvdkit-hub", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections; the other hub goes on."""
        self._over.set()
        self._thread.join(2 * _LOOK_SECONDS)

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(_ALONE_SECONDS if self._lost else _LOOK_SECONDS):
                if isinstance(key.data, Line):
                    self._read(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
            # After the end it goes on to read: closing a socket that holds something unread
            # could take the message back.
            if not self._ended:
                self._look(time.monotonic())
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # sockets and lines
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        self._selector.register(line := Line(connection), selectors.EVENT_READ, line)

    def _read(self, line: Line) -> None:
        try:
            for message in line.receive():
                if line.rank is None:
                    line.rank = self._introduced(line, message)
                else:
                    self._take(line.rank, message, time.monotonic())
        except (ConnectionError, KeyError, TypeError, ValueError):
            self._selector.unregister(line)
            line.close()
            if line.rank is not None and line.rank not in self._gone:
                self._lost.setdefault(line.rank, time.monotonic())
                if self._who[line.rank].host != socket.gethostname():
                    outlive_launcher()  # it has seen that, too, and ends all at once

    def _introduced(self, line: Line, message: Message) -> int:
        rank = int(message["rank"])
        if not hmac.compare_digest(str(message["token"]), self._token) or rank not in self._who:
            raise ConnectionError("a stranger")
        self._lines[rank] = line
        if len(self._lines) == len(self._who):
            self._selector.unregister(self._listener)
            self._listener.close()
        return rank

    def _take(self, rank: int, message: Message, now: float) -> None:
        kind = message["type"]
        state = self._states[rank]
        state.heard = now
        if kind == "beat":
            state.update(message["state"], now, self._clock)
        elif kind == "links":
            if (warning := self._links.take(rank, message["speeds"])) and not self._standby:
                logging.getLogger("hvdkit").warning("hvdkit: %s", warning)
        elif kind == "exception":
            self._raised[rank] = message
            self._raised_at.append(now)
        elif kind == "exit":
            self._exited[rank] = int(message["status"]), now
        elif kind == "stack":
            self._stacks[rank] = [str(line) for line in message["lines"]]
        elif kind == "leaving":
            state.leave(str(message["why"]), self._clock)
        elif kind == "goodbye":
            state.go()
            self._gone.add(rank)
            if message["final"]:
                self._finished.add(rank)
                self._tell({"type": "done", "rank": rank})
        elif kind == "ended":  # another rank's process, without a fault
            other = int(message["rank"])
            self._lost.pop(other, None)
            self._states[other].leave("ended with exit status 0", self._clock)
            self._gone.add(other)
            self._finished.add(other)
            self._states[other].go()
        elif kind == "fault":  # seen and printed by this rank
            self._end([])

    def _look(self, now: float) -> None:
        paused = any(state.paused for state in self._states.values())
        if self._clock.advance(now, paused=paused) > _ABSENT_SECONDS:
            for state in self._states.values():
                state.heard = now
        self._dismiss()
        first = self._states[0]
        patience = 0.0
        if self._standby and 0 not in self._gone and 0 not in self._lost and not first.silent(now):
            patience = STANDBY_SECONDS
        for rank, since in self._lost.items():
            news = _LAST_NEWS_SECONDS if rank in self._seen else _ALONE_SECONDS
            if now - since > news + patience:
                self._end([], report.lost(rank, self._who, self._lost.keys() | self._gone))
                return
        if self._raised:
            self._look_at_exceptions(now, patience)
        elif self._exited:
            self._look_at_exits(now, patience)
        elif self._stall is None:
            self._look_for_stall(now, patience)
        else:
            self._report_stall(*self._stall, now, patience)

    def _left(self) -> dict[int, str]:
        """Why the ranks that have left did so."""
        return {rank: s.left for rank, s in self._states.items() if s.left is not None}

    def _dismiss(self) -> None:
        """Let the ranks go that have left: when all have, or when one of them is waited for.

        The first that goes ends Horovod on all ranks: its process sets, and every collective, also
        of ranks that could do without it. Those that can't shall know without delay.
        """
        left = set(self._left())
        if not self._dismissed and left != set(self._who) and not find_needed(self._states):
            return
        going = left - self._dismissed
        for rank, line in self._lines.items():
            if rank in going:
                line.send({"type": "leave"})
            elif going and rank not in left:
                line.send({"type": "ending"})
        self._dismissed |= left

    def _look_at_exceptions(self, now: float, patience: float) -> None:
        quiet, all_seconds = now - self._raised_at[-1], now - self._raised_at[0]
        alone = self._left()
        causes = any(not raised["secondary"] for raised in self._raised.values())
        if causes:
            everyone = len(self._raised) + len(alone) >= len(self._who)
            done = everyone or quiet > _QUIET_SECONDS or all_seconds > _LONGEST_SECONDS
        else:
            # Errors that follow from another rank's end: its exit status says more, where a rank on
            # its host sees it.
            known = set(alone) <= self._finished | (self._dismissed - self._seen)
            done = bool(alone) and known and quiet > _LAST_NEWS_SECONDS
            done = done or all_seconds > (_EXIT_SECONDS if alone else _LONGEST_SECONDS)
        if not done or all_seconds < patience:
            return
        if alone and not causes:
            self._end([], report.ended_early(alone, self._raised, self._who))
        else:
            status = report.first_cause(self._raised)["status"]
            self._end([], report.exceptions(self._raised, self._who), status)

    def _look_at_exits(self, now: float, patience: float) -> None:
        rank, (status, since) = next(iter(self._exited.items()))
        if set(self._left()) | set(self._exited) == set(self._who):
            self._exited.clear()
            self._tell({"type": "leave"})  # with whatever status, they all end together
        # An exception of another rank may be why this one ends.
        elif now - since > max(_QUIET_SECONDS, patience):
            self._end([], report.early_exit(self._who[rank], status), status)

    def _look_for_stall(self, now: float, patience: float) -> None:
        found = self._found_stall(now, patience)
        if found is None:
            return
        self._stall = found, now
        for rank in found.missing:
            if rank in self._lines:
                self._lines[rank].send({"type": "stack"})

    def _found_stall(self, now: float, patience: float) -> Stall | None:
        return find_stall(self._states, self._clock, now, self._limit, patience)

    def _report_stall(self, found: Stall, since: float, now: float, patience: float) -> None:
        if self._found_stall(now, patience) is None:  # they have come in the last moment
            self._stall = None
            return
        missing = set(found.missing)
        if not missing <= set(self._stacks) and now - since < _STACK_SECONDS:
            return
        doing = {rank: self._doing(rank, now) for rank in missing}
        text = report.stall(found, self._limit, self._who, doing, self._stacks)
        self._end([rank for rank in missing if rank not in self._stacks], text)

    def _doing(self, rank: int, now: float) -> str:
        state = self._states[rank]
        if state.left is not None:
            return f"it {state.left}"
        if rank not in self._stacks:
            return report.silent(now - state.heard)
        waits = [w.what for w in state.waiting(rank, sorted(self._states))]
        return f"{report.WAITS} {waits[0]}" if waits else "it is busy elsewhere"

    def _tell(self, message: Message) -> None:
        for line in self._lines.values():
            line.send(message)

    def _end(self, kill: list[int], text: str | None = None, status: int = EXIT_STATUS) -> None:
        if text is not None:
            self._printer.say(text)
        self._tell({"type": "end", "kill": kill, "status": status})
        self._ended = True
