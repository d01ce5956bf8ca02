"""Two levels: groups and bytes without any ranks, and the exchange on real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from launch import ROOT, run_command
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.engine.hosts import grouped_by_host
from hvdkit.exchange import AllReduce, Hierarchical, OneBit, PowerSGD, Traffic
from hvdkit.exchange.hierarchical.levels import among, misfit

JOBS = [("hierarchical", "mpi", 3)]
LONG_JOBS = [
    ("hierarchical", "mpi", 4),
    ("hierarchical", "gloo", 3),
    ("hierarchical.trained", "mpi", 8),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.quick
def test_groups() -> None:
    assert misfit([[0, 1], [2]], 3) is None
    assert "more than once" in str(misfit([[0, 1], [1, 2]], 3))
    assert "none of the 2 ranks" in str(misfit([[0, 1], [2]], 2))
    assert "in no group" in str(misfit([[0, 1]], 3))
    assert "no ranks" in str(misfit([[0, 1], []], 2))
    assert among([[0, 1, 2, 3], [4, 5, 6, 7]], [1, 3, 5, 7]) == [[1, 3], [5, 7]]
    assert among([[2, 3], [0, 1]], [0, 1]) == [[0, 1]]


@pytest.mark.quick
def test_hosts() -> None:
    """Ranks may go round the hosts, which may have different numbers of them."""
    assert grouped_by_host([("a", 0, 2), ("b", 0, 2), ("a", 1, 2), ("b", 1, 2)]) == [[0, 2], [1, 3]]
    assert grouped_by_host([("b", 0, 1), ("a", 0, 2), ("a", 1, 2)]) == [[0], [1, 2]]
    for places in (
        [("a", 0, 1), ("a", 0, 1)],  # two hosts of one name
        [("a", 0, 2), ("b", 1, 2)],  # one host of two names
    ):
        with pytest.raises(ValueError, match="names of their own"):
            grouped_by_host(places)


@pytest.mark.quick
def test_bytes_between_hosts_and_inside() -> None:
    tensors = [tf.TensorSpec((100, 30)), tf.TensorSpec((17,))]
    whole = 4 * 3017
    assert AllReduce(Hierarchical()).traffic(tensors) == Traffic(whole, 0, inside=2 * whole)
    for inner in (PowerSGD(rank=2), OneBit()):
        alone = AllReduce(inner) if isinstance(inner, PowerSGD) else AllReduce(compression=inner)
        found = AllReduce(Hierarchical(inner)).traffic(tensors)
        assert found.given == alone.traffic(tensors).given
        assert found.inside == 2 * whole
    # Four ranks on two hosts, in rings: from 3/2 of the gradients to 1.
    assert AllReduce().traffic(tensors).sent(4) == 1.5 * whole
    assert AllReduce(Hierarchical()).traffic(tensors).sent(2) == whole


@pytest.mark.long
def test_hosts_are_found_over_gloo(tmp_path: Path) -> None:
    """Two names of this machine stand for two hosts."""
    command = ["horovodrun", "--gloo", "-np", "3", "-H", "localhost:2,127.0.0.1:1"]
    worker = ["python", str(ROOT / "tests/two_levels_job.py"), "[[0, 1], [2]]"]
    run_command([*command, *worker], timeout=120).require_success()
