"""A job whose ranks come and go: who is which rank, anew each time that workers die or join.

Horovod's protocol over HTTP, as its elastic launcher speaks it: a rank that leaves the present
ranks asks who it is next, and is answered when all others have asked.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from hvdkit.jobs.rendezvous import Rendezvous
from hvdkit.jobs.slots import Slot, slots_of


@dataclass
class Member:
    """A worker that lives.

    Attributes:
        host: what its host is called.
        slot: the rank that it is; None before its first round.
        waits: whether it has asked who it is next.
    """

    host: str
    slot: Slot | None = None
    waits: bool = False


class Membership(Rendezvous):
    """The store of a job whose ranks come and go.

    Args:
        first: how many workers the first ranks are; it waits for them.
        least: how many the ranks are at least; with fewer they wait for new workers.

    Attributes:
        rounds: how many times the workers have found each other.
    """

    def __init__(self, first: int, least: int) -> None:
        super().__init__()
        self.rounds = 0
        self._first = first
        self._least = least
        self._since: float | None = None
        self._members: dict[int, Member] = {}
        self._changed = threading.Condition()

    def add(self, worker: int, host: str) -> None:
        """A worker has been started on a host."""
        with self._changed:
            self._members[worker] = Member(host)

    def remove(self, worker: int) -> None:
        """A worker has ended."""
        with self._changed:
            self._members.pop(worker, None)
            self._settle()

    def ranks(self) -> dict[int, int]:
        """The rank of each worker that is one and lives."""
        with self._changed:
            return {w: m.slot.rank for w, m in self._members.items() if m.slot is not None}

    def waited(self) -> float:
        """Seconds that ranks have waited for others; new workers may wait for the next commit."""
        with self._changed:
            return 0.0 if self._since is None else time.monotonic() - self._since

    def absent(self) -> dict[int, str]:
        """The workers that others wait for, with their hosts."""
        with self._changed:
            waited_for = {
                worker: member.host
                for worker, member in self._members.items()
                if not member.waits and (member.slot is not None or not self.rounds)
            }
            return waited_for or {
                worker: member.host for worker, member in self._members.items() if not member.waits
            }

    def get(self, scope: str, key: str) -> bytes | None:
        """See `Rendezvous.get`; three scopes are questions."""
        if scope == "news":
            return b"new" if self._has_news(int(key)) else b"none"
        if scope == "join":
            slot = self._next_slot(int(key))
            variables = {} if slot is None else slot.environment()
            return "\n".join(f"{name}={value}" for name, value in variables.items()).encode()
        if scope == "rank_and_size":
            host, _, local_rank = key.rpartition(":")
            worker = self._worker_of(host, int(local_rank))
            slot = None if worker is None else self._next_slot(worker)
            return (b"-1," * 6) if slot is None else slot.answer().encode()
        return super().get(scope, key)

    def _has_news(self, worker: int) -> bool:
        """Whether rank 0 should know that workers wait to join."""
        with self._changed:
            member = self._members.get(worker)
            if member is None or member.slot is None or member.slot.rank != 0:
                return False
            return any(m.waits and m.slot is None for m in self._members.values())

    def _worker_of(self, host: str, local_rank: int) -> int | None:
        with self._changed:
            for worker, member in self._members.items():
                slot = member.slot
                if slot is not None and (slot.host, slot.local_rank) == (host, local_rank):
                    return worker
        return None

    def _next_slot(self, worker: int) -> Slot | None:
        """The next slot of a worker, when all others have asked; None if it is removed."""
        with self._changed:
            member = self._members.get(worker)
            if member is None:
                return None
            member.waits = True
            self._settle()
            self._changed.wait_for(lambda: not member.waits or worker not in self._members)
            return None if worker not in self._members else member.slot

    def _settle(self) -> None:
        """Make the waiting workers the next ranks, if all of the present ones are among them."""
        asking = {w: m for w, m in self._members.items() if m.waits}
        present = [m for m in self._members.values() if m.slot is not None]
        wanted = self._least if self.rounds else self._first
        if len(asking) >= max(1, wanted) and all(member.waits for member in present):
            self.clear()
            # Who was a rank stays among the first, and keeps the order.
            order = sorted(asking, key=lambda w: (s.rank if (s := asking[w].slot) else 1 << 30, w))
            slots = slots_of([asking[worker].host for worker in order])
            for worker, slot in zip(order, slots, strict=True):
                asking[worker].slot, asking[worker].waits = slot, False
            self.rounds += 1
            self._since = None
        elif any(m.waits for m in present) or (asking and not self.rounds):
            self._since = self._since or time.monotonic()
        else:
            self._since = None
        self._changed.notify_all()
