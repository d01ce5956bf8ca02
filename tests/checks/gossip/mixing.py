"""Rounds of gossip on real ranks are products with the graph's matrices."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from checks.gossip.values import expected, run
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import Gossip
from hvdkit.schedules.gossip import GRAPHS, Ring, contraction


@long
def check_weights_are_the_matrix_times_weights() -> None:
    for name, graph in GRAPHS.items():
        for compile_step in (lambda step: step, tf.function):
            seen = run(Gossip(name), 5, compile_step)
            for found, held in zip(seen, expected(graph(), 5), strict=True):
                np.testing.assert_allclose(found, held, rtol=1e-5, atol=1e-6, err_msg=name)
            # The mean stays, up to the rounding of float32.
            np.testing.assert_allclose(seen[-1].mean(0), seen[0].mean(0), rtol=1e-5, atol=1e-6)


def check_one_peer_averages_after_the_logarithm_of_ranks() -> None:
    size = hvd.size()
    if size & (size - 1):
        return
    rounds = size.bit_length() - 1
    seen = run(Gossip("one_peer_exponential"), rounds)
    np.testing.assert_allclose(seen[-1], seen[-1][:1].repeat(size, 0), rtol=1e-5, atol=1e-6)
    if rounds > 1:
        assert np.abs(seen[-2] - seen[-2].mean(0)).max() > 0.01


def check_differences_shrink_by_the_factor_of_the_graph() -> None:
    seen = run(Gossip("ring", push_sum=False), 6)
    apart = [np.linalg.norm(held - held.mean(0)) for held in seen]
    factor = contraction(Ring(), hvd.size())
    ratios = np.array(apart[1:]) / np.maximum(apart[:-1], 1e-9)
    assert (ratios[:3] < factor + 1e-3).all() or factor < 1e-6, (ratios, factor)


def check_what_is_no_graph() -> None:
    for graph in ("star", 3, None):
        with pytest.raises(ValueError, match="one_peer_exponential"):
            Gossip(graph)
