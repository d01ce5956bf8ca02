"""An odd number of ranks, and one alone: nobody waits for ever."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from checks.gossip.values import expected, run
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import Gossip
from hvdkit.schedules.gossip import GRAPHS


@long
def check_every_graph_with_these_ranks() -> None:
    for name, graph in GRAPHS.items():
        seen = run(Gossip(name), 7, tf.function)
        assert len(seen[-1]) == hvd.size()
        for found, held in zip(seen, expected(graph(), 7), strict=True):
            np.testing.assert_allclose(found, held, rtol=1e-5, atol=1e-6, err_msg=name)
    # To both neighbours, of which two ranks have one and one has none.
    sent = Gossip("ring").traffic([tf.TensorSpec([5, 2])]).sent(hvd.size())
    assert sent == 40 * min(2, hvd.size() - 1)
