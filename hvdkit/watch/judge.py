"""Which ranks keep the others waiting: decided from what all ranks say they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# A rank sends a heartbeat each second; after as many seconds without, it is called silent.
SILENT_SECONDS = 5.0
# A rank that has ended can't come any more, so nobody needs to wait for it for minutes.
ENDED_SECONDS = 3.0
# Ranks that wait for each other in different collectives do so for ever: neither can come.
DEADLOCK_SECONDS = 10.0
# A collective that a rank still waits in so long after another has left is not one of both.
NEEDED_SECONDS = 1.0

_JOIN = "join"
_KINDS = ("allreduce", "allgather", "broadcast", "alltoall", "reducescatter")
_IN_A_STEP = "in a step"
# What a rank waits in when it leaves: Horovod ends on all ranks together.
LEAVING = "the end of the job"


class WaitingClock:
    """Time that stands still while a rank has declared a pause."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real: float | None = None

    def advance(self, real: float, *, paused: bool) -> float:
        """Go on to a moment; returns the real seconds since the call before."""
        passed = 0.0 if self._real is None else real - self._real
        self._real = real
        if not paused:
            # A hub that was stopped itself has not seen what happened meanwhile.
            self.now += min(passed, 1.0)
        return passed


@dataclass
class Waiting:
    """A rank waits in a collective.

    Attributes:
        rank: the rank.
        what: the collective, in words.
        ranks: the ranks that have to take part.
        since: when it began, on the waiting clock.
        graph: the key of the graph marks it was read from; None for an eager collective.
        done: how many collectives of these marks were finished before.
        patient: whether the others may come as late as they like.
        kind: the operation of an eager collective, `_IN_A_STEP` for one of a graph that holds the
            main thread up; None where something else may be done meanwhile, or is not known.
    """

    rank: int
    what: str
    ranks: list[int]
    since: float
    graph: str | None = None
    done: int = 0
    patient: bool = False
    kind: str | None = None


@dataclass
class State:
    """What is known of one rank.

    Attributes:
        heard: when the last message came, in real seconds.
        left: why the rank comes to no collective any more; None while it takes part.
        left_at: when it left, on the waiting clock.
        said: its last heartbeat (`hvdkit.watch.activity.Activity.state`).
        said_at: when that came, on the waiting clock.
        since: when each thing that it waits in began, on the waiting clock.
    """

    heard: float
    left: str | None = None
    left_at: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)
    said_at: float = 0.0
    since: dict[str, tuple[int, float]] = field(default_factory=dict)

    def update(self, said: dict[str, Any], heard: float, clock: WaitingClock) -> None:
        """Take in a heartbeat."""
        self.heard, self.said, self.said_at = heard, said, clock.now
        progress = {"": int(said["count"])}
        progress |= {_key(graph["ranks"]): int(graph["left"]) for graph in said["graphs"]}
        waits = {"": said["doing"] is not None}
        waits |= {_key(g["ranks"]): g["entered"] > g["left"] for g in said["graphs"]}
        for key, count in progress.items():
            before = self.since.get(key)
            if not waits[key]:
                self.since.pop(key, None)
            elif before is None or before[0] != count:
                self.since[key] = (count, clock.now)

    def leave(self, why: str, clock: WaitingClock) -> None:
        """The rank comes to no collective any more."""
        if self.left is None:
            self.left, self.left_at = why, clock.now

    def go(self) -> None:
        """The rank says nothing any more."""
        self.said, self.since = {}, {}

    @property
    def paused(self) -> bool:
        """Whether the rank has declared a pause."""
        return self.left is None and self.said.get("pause") is not None

    def silent(self, now: float) -> bool:
        """Whether heartbeats have stopped coming."""
        return now - self.heard > SILENT_SECONDS

    def waiting(self, rank: int, everyone: list[int]) -> Iterator[Waiting]:
        """The collectives that the rank waits in."""
        if "" in self.since:
            ranks = self.said["ranks"] or everyone
            patient = self.said["doing"] in (_JOIN, LEAVING) or self.said.get("patient", False)
            kind = self.said["doing"].split()[0] if self.said.get("collective") else None
            yield Waiting(
                rank,
                self.said["doing"],
                ranks,
                self.since[""][1],
                patient=patient,
                kind=kind if kind in _KINDS else None,
            )
        held_up = self.said.get("in_a_step") and self.said["doing"] is None
        kind = _IN_A_STEP if held_up else None
        for graph in self.said.get("graphs", []):
            key = _key(graph["ranks"])
            if key in self.since:
                ranks = graph["ranks"] or everyone
                since = self.since[key][1]
                yield Waiting(rank, graph["what"], ranks, since, key, graph["left"], kind=kind)

    def takes_part(self, waiting: Waiting) -> bool:
        """Whether the rank has come to where another one waits."""
        if self.said.get("doing") == _JOIN:
            return True  # Horovod answers for it
        if waiting.patient:
            return True
        if waiting.graph is None:
            return bool(self.said.get("doing") == waiting.what)
        for graph in self.said.get("graphs", []):
            if _key(graph["ranks"]) == waiting.graph:
                return bool(graph["entered"] > waiting.done)
        return False


def _key(ranks: list[int] | None) -> str:
    return f"graph {ranks}"


@dataclass(frozen=True)
class Stall:
    """Ranks have waited for longer than they may.

    Attributes:
        what: the collective, in words.
        seconds: how long.
        waiting: the ranks that wait in it.
        missing: the ranks that did not come; empty where all came and it still does not end.
        for_ever: whether a missing rank waits for one of these, so that it can't come.
    """

    what: str
    seconds: float
    waiting: list[int]
    missing: list[int]
    for_ever: bool = False


def find_stall(
    states: Mapping[int, State],
    clock: WaitingClock,
    now: float,
    limit: float,
    patience: float = 0.0,
) -> Stall | None:
    """The wait over the limit that the fewest ranks are to blame for; of equals the longest.

    Args:
        states: what is known of each rank.
        clock: the waiting clock, up to date.
        now: the real time.
        limit: seconds on the waiting clock.
        patience: seconds more, of any wait: those of one who stands by.
    """
    found = []
    for waiting in _all_waiting([rank for rank in states if not states[rank].silent(now)], states):
        seconds = clock.now - waiting.since
        others = [rank for rank in waiting.ranks if rank in states]
        ended = [rank for rank in others if states[rank].left is not None]
        if waiting.what == LEAVING:
            others = [rank for rank in others if rank == waiting.rank or rank not in ended]
            ended = []
        missing = [
            rank
            for rank in others
            if rank in ended or states[rank].silent(now) or not states[rank].takes_part(waiting)
        ]
        for_ever = not ended and _for_ever(waiting, missing, states, clock, now)
        lasted, allowed = seconds, min(DEADLOCK_SECONDS, limit) if for_ever else limit
        if ended:
            lasted = min(seconds, clock.now - max(states[rank].left_at for rank in ended))
            allowed = min(ENDED_SECONDS, limit)
        if lasted < allowed + patience:
            continue
        if waiting.patient and not missing:
            continue
        together = [rank for rank in others if rank not in missing]
        found.append(Stall(waiting.what, seconds, together, missing, for_ever))
    return min(found, key=lambda stall: (len(stall.missing), -stall.seconds), default=None)


def _for_ever(
    waiting: Waiting,
    missing: list[int],
    states: Mapping[int, State],
    clock: WaitingClock,
    now: float,
) -> bool:
    """Whether a missing rank waits in another collective, eagerly, for the rank that waits here.

    Only collectives of different kinds count: to Horovod eager ones of one kind are the same.
    """
    return waiting.kind is not None and any(
        waiting.rank in other.ranks
        and other.kind not in (None, _IN_A_STEP, waiting.kind)
        and not states[waiting.rank].takes_part(other)
        and clock.now - other.since >= DEADLOCK_SECONDS
        for rank in missing
        if not states[rank].silent(now)
        for other in states[rank].waiting(rank, sorted(states))
    )


def find_needed(states: Mapping[int, State]) -> set[int]:
    """The ranks that have left, and that others wait for.

    Args:
        states: what is known of each rank.
    """
    return {
        other
        for waiting in _all_waiting(list(states), states)
        if waiting.what != LEAVING
        for other in waiting.ranks
        if other in states and states[other].left is not None
        # As heard from the one that waits: it may have finished since.
        if states[waiting.rank].said_at - max(waiting.since, states[other].left_at)
        >= NEEDED_SECONDS
    }


def _all_waiting(ranks: list[int], states: Mapping[int, State]) -> list[Waiting]:
    everyone = sorted(states)
    return [w for rank in sorted(ranks) for w in states[rank].waiting(rank, everyone)]
