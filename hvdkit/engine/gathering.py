"""Objects of all ranks, large ones too, for one rank."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import cloudpickle
import numpy as np
import tensorflow as tf

from hvdkit.engine import ops
from hvdkit.engine.native import ProcessSet, global_process_set
from hvdkit.engine.topology import process_set_ranks, rank


def gather_object(
    obj: Any, name: str, process_set: ProcessSet = global_process_set
) -> list[Any] | None:
    """Send a picklable object of each rank to the first of `process_set`; all of its ranks call it.

    Args:
        obj: this rank's object.
        name: the same on all ranks.
        process_set: the ranks that take part.

    Returns:
        On the first rank the objects in rank order, on the others None.
    """
    members = process_set_ranks(process_set)
    data = np.frombuffer(zlib.compress(cloudpickle.dumps(obj), 1), np.uint8)
    splits = np.zeros(len(members), np.int32)
    splits[0] = data.size
    with tf.init_scope():
        received, sizes = ops.alltoall(
            tf.constant(data), tf.constant(splits), name=name, process_set=process_set
        )
    if rank() != members[0]:
        return None
    parts = np.split(received.numpy(), np.cumsum(sizes.numpy())[:-1])
    return [pickle.loads(zlib.decompress(part.tobytes())) for part in parts]
