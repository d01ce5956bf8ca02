"""Who keeps whom waiting, decided from what the ranks say; and who may say it."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import pytest

from hvdkit.watch.hub import Hub
from hvdkit.watch.judge import (
    LEAVING,
    SILENT_SECONDS,
    Stall,
    State,
    WaitingClock,
    find_needed,
    find_stall,
)
from hvdkit.watch.links import Links
from hvdkit.watch.printer import Printer
from hvdkit.watch.report import Who, numbers

pytestmark = pytest.mark.quick

LIMIT = 10.0


class Ranks:
    """Ranks that say what they do, each second."""

    def __init__(self, size: int, limit: float = LIMIT) -> None:
        self.limit = limit
        self.clock = WaitingClock()
        self.real = 0.0
        self.clock.advance(0.0, paused=False)
        self.states = {rank: State(0.0) for rank in range(size)}
        self.said: dict[int, dict[str, Any]] = {rank: says() for rank in range(size)}

    def after(self, seconds: int, *, silent: tuple[int, ...] = ()) -> Stall | None:
        """What is found when they go on like this for some time."""
        for _ in range(seconds):
            self.real += 1.0
            paused = any(state.paused for state in self.states.values())
            self.clock.advance(self.real, paused=paused)
            for rank, said in self.said.items():
                if rank not in silent:
                    self.states[rank].update(said, self.real, self.clock)
        return find_stall(self.states, self.clock, self.real, self.limit)


def says(doing: str | None = None, count: int = 0, **more: Any) -> dict[str, Any]:
    """A heartbeat."""
    graphs = [{"ranks": None, "what": "a graph", **graph} for graph in more.pop("graphs", [])]
    return {"doing": doing, "ranks": None, "count": count, "pause": None, "graphs": graphs, **more}


def test_nobody_waits() -> None:
    assert Ranks(3).after(100) is None


def test_waiting_below_the_limit_and_over_it() -> None:
    ranks = Ranks(3)
    ranks.said[0] = ranks.said[2] = says("allreduce")
    assert ranks.after(10) is None
    assert ranks.after(2) == Stall("allreduce", 11.0, [0, 2], [1])


def test_each_collective_begins_anew() -> None:
    ranks = Ranks(2)
    for count in range(5):
        ranks.said[0] = says("allreduce", count)
        assert ranks.after(9) is None


def test_pause_of_any_rank_does_not_count() -> None:
    ranks = Ranks(3)
    ranks.said[0] = says("allreduce")
    ranks.said[1] = says(pause="saving")
    assert ranks.after(100) is None
    ranks.said[1] = says()
    assert ranks.after(9) is None
    found = ranks.after(3)
    assert found is not None
    assert found.missing == [1, 2]


def test_only_members_of_a_process_set_are_missing() -> None:
    ranks = Ranks(4)
    ranks.said[1] = says("allreduce", ranks=[1, 3])
    assert ranks.after(12) == Stall("allreduce", 11.0, [1], [3])


def test_join_waits_for_ever_and_is_present_everywhere() -> None:
    ranks = Ranks(3)
    ranks.said[0] = says("join")
    assert ranks.after(100) is None
    ranks.said[1] = says("allreduce")
    assert ranks.after(12) == Stall("allreduce", 11.0, [0, 1], [2])


def test_silent_rank_is_missing_wherever_it_was() -> None:
    ranks = Ranks(2)
    ranks.said = {0: says("allreduce"), 1: says("allreduce")}
    ranks.after(1)
    found = ranks.after(12, silent=(1,))
    assert SILENT_SECONDS < LIMIT
    assert found == Stall("allreduce", 12.0, [0], [1])


def test_who_has_not_come_to_a_collective_of_a_graph_is_missing() -> None:
    ranks = Ranks(3)
    ranks.said[0] = says(graphs=[{"entered": 8, "left": 6}])
    ranks.said[1] = says(graphs=[{"entered": 6, "left": 6}])
    ranks.said[2] = says(graphs=[{"entered": 7, "left": 6}])
    assert ranks.after(12) == Stall("a graph", 11.0, [0, 2], [1])


def test_other_collectives_of_all_ranks() -> None:
    ranks = Ranks(3)
    ranks.said = {0: says("broadcast"), 1: says("allgather"), 2: says("allgather")}
    assert ranks.after(12) == Stall("allgather", 11.0, [1, 2], [0])


def _found_early(*said: dict[str, Any]) -> Stall | None:
    """What is found long before the limit is over."""
    ranks = Ranks(len(said), limit=300.0)
    ranks.said = dict(enumerate(said))
    return ranks.after(12)


STEP = [{"entered": 7, "left": 6}]


def test_ranks_that_wait_for_each_other_do_not_need_the_limit() -> None:
    """As one whose callback has stopped the training within an epoch, and goes on alone."""
    gathers = says("allgather 'hvdkit.logs'", collective=True)
    trains = says(graphs=STEP, in_a_step=True)
    found = Stall("a graph", 11.0, [0, 2], [1], for_ever=True)
    assert _found_early(trains, gathers, trains) == found
    found = Stall("broadcast", 11.0, [0], [1], for_ever=True)
    assert _found_early(says("broadcast", collective=True), gathers) == found


def test_ranks_that_may_still_come_have_until_the_limit() -> None:
    gathers = says("allgather 'hvdkit.logs'", collective=True)
    trains = says(graphs=STEP, in_a_step=True)
    # Of one kind they are the same to Horovod, whatever they are called.
    assert _found_early(gathers, says("allgather 'x'", collective=True)) is None
    # Another step is no step of ours, and its rank may wait somewhere else.
    assert _found_early(says(graphs=STEP), gathers) is None
    # A message is on its way while its sender does something else.
    assert _found_early(says("messages of a pipeline"), gathers) is None
    assert _found_early(trains, says("messages of a pipeline")) is None
    # Two ranks of three, of which the third keeps both waiting.
    both = says("allgather", collective=True, ranks=[1, 2])
    assert _found_early(trains, both, says()) is None
    # Nobody is missing where all of a smaller set have come.
    assert _found_early(says(), both, both) is None
    # It computes, and will come.
    assert _found_early(gathers, says(in_a_step=True)) is None


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    ranks = Ranks(2)
    ranks.said[0] = says("allreduce")
    ranks.states[1].left = "came to the end of its script"
    found = ranks.after(5)
    assert found is not None
    assert found.missing == [1]


def test_who_left_is_not_needed_for_what_was_finished_with_it() -> None:
    ranks = Ranks(3)
    ranks.said[0] = says("allreduce", 7)
    ranks.after(9)
    ranks.states[1].leave("came to the end of its script", ranks.clock)
    ranks.said[1] = says(LEAVING)
    assert find_needed(ranks.states) == set()  # rank 0 has not said anything since
    ranks.said[0] = says("allreduce", 8, ranks=[0, 2])
    ranks.after(5)
    assert find_needed(ranks.states) == set()
    ranks.said[0] = says("allreduce", 9)
    ranks.after(2)
    assert find_needed(ranks.states) == {1}


def test_the_end_waits_only_for_ranks_that_do_not_answer() -> None:
    ranks = Ranks(3)
    ranks.said[0] = says(LEAVING)
    ranks.states[0].left = ranks.states[2].left = "came to the end of its script"
    assert ranks.after(20) is None
    assert ranks.after(6, silent=(1, 2)) == Stall(LEAVING, 25.0, [0], [1])
    ranks.states[0].go()
    assert ranks.after(20, silent=(0, 1, 2)) is None


@pytest.mark.parametrize(
    "line",
    [b'{"rank": 0, "token": "guessed"}\n', b'{"rank": 7, "token": "t"}\n', b"GET /\n", b"[]\n"],
)
def test_strangers_are_sent_away(line: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    who = {rank: Who(rank, "here", os.getpid()) for rank in range(2)}
    hub = Hub(
        listener, who, "t", LIMIT, Printer(secrets.token_hex(8)), Links({}, {}), standby=False
    )
    hub.start()
    try:
        with socket.create_connection(address, timeout=10) as stranger:
            stranger.sendall(line)
            assert stranger.recv(100) == b""
    finally:
        hub.stop()


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([2], "rank 2"), ([0, 1, 2], "ranks 0-2"), ([4, 0, 2, 3], "ranks 0, 2-4")],
)
def test_numbers(ranks: list[int], text: str) -> None:
    assert numbers(ranks) == text
