"""Which elements of which variables a rank owns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

Range = tuple[int, int]
"""The first element, and the one after the last."""


def even_ranges(elements: int, ranks: int) -> list[Range]:
    """Elements for each rank, as a reduce-scatter leaves them: the first ranks have one more.

    Example:
        >>> even_ranges(7, 3)
        [(0, 3), (3, 5), (5, 7)]
    """
    share, rest = divmod(elements, ranks)
    starts = [rank * share + min(rank, rest) for rank in range(ranks + 1)]
    return list(itertools.pairwise(starts))


def overlaps(sizes: Sequence[int], of_rank: Range) -> Iterator[Range]:
    """What a range of variables laid end to end has of each, counted from its first element.

    Args:
        sizes: elements of each variable.
        of_rank: a range of all of them.

    Example:
        >>> list(overlaps([4, 2, 3], (3, 5)))
        [(3, 4), (0, 1), (0, 0)]
    """
    first, last = of_rank
    before = 0
    for size in sizes:
        start, stop = (min(max(end - before, 0), size) for end in (first, last))
        yield (start, stop) if stop > start else (0, 0)
        before += size
