"""Ranks that do not find each other end, and do not wait for ever."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hvdkit.watch.messages import EXIT_STATUS
from hvdkit.watch.report import block, write

# Ranks import TensorFlow before they come, which takes one of them longer than another.
SHORTEST_SECONDS = 120.0


@contextmanager
def start_limit(seconds: float, ranks: int) -> Iterator[None]:
    """While inside, this process ends with a message when it takes longer.

    Nothing can interrupt MPI while it looks for the others.

    Args:
        seconds: how long it may take, if that is more than `SHORTEST_SECONDS`; infinity for no
            limit.
        ranks: how many ranks there should be.
    """
    seconds = max(seconds, SHORTEST_SECONDS)
    if math.isinf(seconds) or ranks == 1:
        yield
        return
    timer = threading.Timer(seconds, _give_up, (seconds, ranks))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds: float, ranks: int) -> None:
    title = (
        f"the {ranks} ranks of this job have not found each other within {seconds:g} s: "
        f"host {socket.gethostname()}, pid {os.getpid()}."
    )
    body = (
        "A rank has not come to hvd.init() (hvd.init(stall_timeout=1800) waits longer), or the "
        "hosts can't reach each other: a firewall, or a network that does not lead to all of them "
        "(name the one that does: hvdkit mpirun --interface eth0, or mpirun --mca "
        "btl_tcp_if_include eth0).\n"
        "`hvdkit doctor --hosts H1,H2,...` tries each two hosts."
    )
    write(block(title, body))
    os._exit(EXIT_STATUS)
