"""One rank of a job on several hosts; `test_hierarchical.py` and the hosts of benchmarks run it.

    python two_levels_job.py GROUPS

It fails unless the ranks find these groups, and their mean is that of all.
"""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.engine.hosts import ranks_by_host


def main(expected: str) -> None:
    """Look for the hosts, and make some steps."""
    hvd.init()
    found = ranks_by_host()
    assert found == json.loads(expected), found
    assert hvd.local_size() == len(next(group for group in found if hvd.rank() in group))
    for inner in (None, hvd.exchange.PowerSGD(rank=1, min_compression=0.5)):
        weight = keras.Variable(np.zeros((3, 2), "float32"))
        exchange = hvd.exchange.AllReduce(hvd.exchange.Hierarchical(inner))
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(-1.0), exchange=exchange)
        optimizer.build([weight])
        step = tf.function(lambda gradient, o=optimizer: o.apply([gradient]))
        step(tf.fill([3, 2], float(hvd.rank())))  # of rank 1, so nothing is lost
        np.testing.assert_allclose(weight.numpy(), (hvd.size() - 1) / 2, rtol=1e-5)


if __name__ == "__main__":
    main(sys.argv[1])
