"""Which server holds which variable."""

from __future__ import annotations

from collections.abc import Sequence


def spread(sizes: Sequence[int], servers: int) -> list[int]:
    """Give variables to servers, so that these hold about equally many bytes.

    The largest variable is given first, each to the server that holds the fewest bytes so far. No
    variable is divided, so the largest one bounds how even it gets: no server holds more than
    total / servers + the largest.

    Args:
        sizes: bytes of each variable.
        servers: number of servers.

    Returns:
        The server of each variable, from 0.
    """
    held = [0] * servers
    owners = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = held.index(min(held))
        held[owners[i]] += sizes[i]
    return owners
