"""Which network has become slow, decided from what the ranks measure; and that they can measure."""

from __future__ import annotations

import socket
import threading

import pytest

from hvdkit.watch.links import Links, Meter

pytestmark = pytest.mark.quick

HOSTS = {0: "h1", 1: "h2", 2: "h3"}
ADDRESSES = {"10.0.0.1": "h1", "10.0.0.2": "h2", "10.0.0.3": "h3"}
RING = {0: "10.0.0.2", 1: "10.0.0.3", 2: "10.0.0.1"}
FAST, SLOW = 110e6, 1.1e6


def _looks(links: Links, speeds: dict[int, float], times: int) -> list[str]:
    said = [
        links.take(rank, {RING[rank]: speed})
        for _ in range(times)
        for rank, speed in speeds.items()
    ]
    return [text for text in said if text]


def test_a_host_that_becomes_slow_is_named_once() -> None:
    links = Links(HOSTS, ADDRESSES)
    assert _looks(links, {0: FAST, 1: FAST, 2: FAST}, 5) == []
    assert _looks(links, {0: SLOW, 1: SLOW, 2: FAST}, 2) == []
    (said,) = _looks(links, {0: SLOW, 1: SLOW, 2: FAST}, 10)
    assert "host h2 carries 1.1 MB/s, where 110 MB/s were seen" in said
    assert _looks(links, {0: FAST, 1: FAST, 2: FAST}, 5) == []
    assert _looks(links, {0: SLOW, 1: SLOW, 2: FAST}, 10) == []


def test_who_is_well_connected_is_not_to_blame() -> None:
    """Not all hosts send to all: here h1 sends to both others."""
    links = Links(HOSTS, ADDRESSES)
    said = []
    for speed in (FAST, FAST, *[SLOW] * 9):
        said.append(links.take(0, {"10.0.0.2": speed, "10.0.0.3": FAST}))
    (warning,) = [text for text in said if text]
    assert "the network of host h2 carries" in warning


def test_two_hosts() -> None:
    links = Links({0: "h1", 1: "h2"}, ADDRESSES)
    said = [links.take(0, {"10.0.0.2": speed}) for speed in (FAST, FAST, *[SLOW] * 9)]
    (warning,) = [text for text in said if text]
    assert "between hosts h1 and h2 carries" in warning


def test_no_warning() -> None:
    links = Links(HOSTS, ADDRESSES)
    assert _looks(links, {0: FAST, 1: FAST, 2: FAST / 10}, 9) == []  # not slow enough
    assert _looks(links, {0: 100 * FAST, 1: FAST, 2: FAST}, 9) == []  # fast all the same
    assert [links.take(0, {"172.17.0.1": SLOW}) for _ in range(9)] == [None] * 9  # whose is it?


def test_the_meter_sees_this_process_s_own_connections() -> None:
    meter = Meter()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sender,
        listener.accept()[0] as receiver,
    ):
        assert meter.speeds() == {}
        reader = threading.Thread(target=lambda: receiver.recv(2**22, socket.MSG_WAITALL))
        reader.start()
        sender.sendall(bytes(2**22))
        reader.join(10)
        assert meter.speeds()["127.0.0.1"] > 1e6
        assert meter.speeds() == {}
