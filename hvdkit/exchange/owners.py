"""Which rank has which variable, where each is one rank's as a whole."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class Owners:
    """Gives each variable to one of the ranks, so that all have about as many bytes.

    The largest go first, each to the rank with the fewest bytes; variables that come later are
    given out on top of those before them. No variable is divided: a rank has at most its share of
    all bytes, and the largest variable's.

    Args:
        ranks: number of ranks.
    """

    def __init__(self, ranks: int) -> None:
        self._loads = [(0, rank) for rank in range(ranks)]

    def give(self, sizes: Sequence[int]) -> list[int]:
        """The rank for each of some variables.

        Args:
            sizes: bytes of each.
        """
        owners = [0] * len(sizes)
        for position in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
            load, owner = heapq.heappop(self._loads)
            owners[position] = owner
            heapq.heappush(self._loads, (load + sizes[position], owner))
        return owners
