"""Who sends to whom in a round of gossip, and what that does to differences; without any device.

A rank halves, or divides by three, what it holds between itself and those that it sends to. A round
is a matrix P whose columns sum to 1, and P x is what the ranks hold after it. Where its rows sum to
1, too, the mean over ranks stays, and the largest eigenvalue but the 1 of the mean says by how much
differences shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Graph(Protocol):
    """A directed graph over ranks; it may be another one in each round."""

    def targets(self, place: int, size: int, number: int) -> Sequence[int]:
        """The other ranks that a rank sends to.

        Args:
            place: the rank, 0 to `size - 1`.
            size: the number of ranks.
            number: the round, from 0.
        """
        ...

    def period(self, size: int) -> int:
        """After how many rounds the graphs repeat."""
        ...


class Circulant:
    """Base of graphs in which each rank sends to those at the same distances from it."""

    def distances(self, size: int, number: int) -> Sequence[int]:
        """The distances in a round, to higher ranks; past the last one comes rank 0."""
        raise NotImplementedError

    def targets(self, place: int, size: int, number: int) -> list[int]:
        """See `Graph.targets`."""
        steps = {distance % size for distance in self.distances(size, number)} - {0}
        return [(place + step) % size for step in sorted(steps)]

    def period(self, size: int) -> int:
        """See `Graph.period`."""
        del size
        return 1


class Ring(Circulant):
    """Each rank sends to both neighbours: differences shrink by 1/3 + 2/3 cos(2 pi / n)."""

    def distances(self, size: int, number: int) -> list[int]:
        """One, up and down."""
        del number
        return [1, size - 1]


class Exponential(Circulant):
    """Each rank sends to those 1, 2, 4, ... after it; Ying et al., 2021.

    For n a power of 2 differences shrink by 1 - 2 / (1 + log2 n) in each round
    (https://arxiv.org/abs/2110.13363).
    """

    def distances(self, size: int, number: int) -> list[int]:
        """The powers of 2 below the number of ranks."""
        del number
        return [2**k for k in range(_powers(size))]


class OnePeerExponential(Circulant):
    """In round k each rank sends to the one 2^k after it; Assran et al., 2019.

    For n a power of 2 the ranks hold the mean after log2 n rounds, from the first of them on
    (https://arxiv.org/abs/1811.10792).
    """

    def distances(self, size: int, number: int) -> list[int]:
        """One power of 2, in turn."""
        powers = _powers(size)
        return [2 ** (number % powers)] if powers else []

    def period(self, size: int) -> int:
        """The powers of 2 below the number of ranks."""
        return max(1, _powers(size))


GRAPHS: dict[str, type[Circulant]] = {
    "ring": Ring,
    "exponential": Exponential,
    "one_peer_exponential": OnePeerExponential,
}


def _powers(size: int) -> int:
    """How many powers of 2 are below a number of ranks."""
    return (size - 1).bit_length()


def sources(graph: Graph, place: int, size: int, number: int) -> list[int]:
    """The other ranks that a rank hears from in a round."""
    others = (other for other in range(size) if other != place)
    return [other for other in others if place in graph.targets(other, size, number)]


def mixing_matrix(graph: Graph, size: int, number: int) -> np.ndarray:
    """The matrix of a round: in row i and column j what rank i gets of what rank j holds."""
    matrix = np.zeros((size, size))
    for place in range(size):
        targets = graph.targets(place, size, number)
        matrix[[place, *targets], place] = 1 / (len(targets) + 1)
    return matrix


def keeps_mean(graph: Graph, size: int) -> bool:
    """Whether rows sum to 1, too, so that the plain mean stays without the weights of push-sum."""
    rounds = range(graph.period(size))
    sums = [mixing_matrix(graph, size, number).sum(axis=1) for number in rounds]
    return bool(np.allclose(sums, 1.0))


def contraction(graph: Graph, size: int) -> float:
    """By how much differences shrink in one period: the largest eigenvalue but that of the mean."""
    whole = np.eye(size)
    for number in range(graph.period(size)):
        whole = mixing_matrix(graph, size, number) @ whole
    return float(np.abs(np.linalg.eigvals(whole - 1 / size)).max())
