"""Gossip: the matrices of its graphs, and the exchange on real ranks."""

from __future__ import annotations

import numpy as np
import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.schedules.gossip import (
    GRAPHS,
    Exponential,
    OnePeerExponential,
    Ring,
    contraction,
    keeps_mean,
    mixing_matrix,
    sources,
)

JOBS = [("gossip", "mpi", 4), ("gossip.few_ranks", "mpi", 3), ("gossip.over_gloo", "gloo", 2)]
LONG_JOBS = [("gossip", "mpi", 3), ("gossip.few_ranks", "mpi", 1)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("size", "factor"), [(8, 0.80474), (16, 0.94925), (32, 0.98719), (64, 0.99679)]
)
def test_a_ring_contracts_by_its_cosine(size: int, factor: float) -> None:
    assert abs(contraction(Ring(), size) - factor) < 1e-4
    assert abs(contraction(Ring(), size) - (1 / 3 + 2 / 3 * np.cos(2 * np.pi / size))) < 1e-9


@pytest.mark.quick
@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_the_exponential_graph_contracts_by_its_logarithm(size: int) -> None:
    assert abs(contraction(Exponential(), size) - (1 - 2 / (1 + np.log2(size)))) < 1e-4


@pytest.mark.quick
@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_one_peer_averages_exactly(size: int, first: int) -> None:
    """After log2 n rounds, whichever comes first; and not before."""
    rounds = int(np.log2(size))
    whole = np.eye(size)
    for number in range(first, first + rounds):
        assert not np.array_equal(whole, np.full((size, size), 1 / size))
        whole = mixing_matrix(OnePeerExponential(), size, number) @ whole
    np.testing.assert_array_equal(whole, np.full((size, size), 1 / size))


@pytest.mark.quick
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 13])
def test_any_number_of_ranks(name: str, size: int) -> None:
    """Rows and columns sum to 1, differences shrink, and who is sent to hears of it."""
    graph = GRAPHS[name]()
    assert keeps_mean(graph, size)
    for number in range(graph.period(size)):
        matrix = mixing_matrix(graph, size, number)
        np.testing.assert_allclose(matrix.sum(axis=0), 1.0)
        for place in range(size):
            heard = np.flatnonzero(np.delete(matrix[place], place))
            assert len(sources(graph, place, size, number)) == len(heard)
    assert contraction(graph, size) < 1 - 1e-3
