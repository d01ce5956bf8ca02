"""tf.IndexedSlices: reduced, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal, sparse_of_rank

import hvdkit as hvd


def check_indexed_slices() -> None:
    dense = np.sum([tf.convert_to_tensor(sparse_of_rank(r)).numpy() for r in all_ranks()], 0)
    own = sparse_of_rank(hvd.rank())
    for options, expected in (
        ({"op": hvd.Sum}, dense),
        ({}, dense / hvd.size()),
        ({"op": hvd.Sum, "compression": hvd.Compression.fp16}, dense),
        ({"op": hvd.Sum, "compression": hvd.Compression.bf16}, dense),
    ):
        for collective in (
            hvd.allreduce,
            lambda v, **o: hvd.grouped_allreduce([v], **o)[0],
            tf.function(hvd.allreduce),
        ):
            result = collective(own, **options)
            assert isinstance(result, tf.IndexedSlices)
            assert result.values.dtype == tf.float32
            indices = result.indices.numpy()
            assert len(set(indices)) == len(indices), "duplicates are added up"
            assert_equal(tf.convert_to_tensor(result), expected, rtol=1e-6)


def check_indexed_slices_refuse_what_they_cannot() -> None:
    own = sparse_of_rank(hvd.rank())
    with pytest.raises(ValueError, match="averaged and summed"):
        hvd.allreduce(own, op=hvd.Max)
    for collective in (hvd.allreduce, lambda v, **o: hvd.grouped_allreduce([v], **o)):
        with pytest.raises(NotImplementedError, match="prescale or postscale"):
            collective(own, prescale_factor=2.0)
        with pytest.raises(NotImplementedError, match="prescale or postscale"):
            collective(own, postscale_factor=2.0)
