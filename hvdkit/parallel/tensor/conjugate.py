"""The conjugate pairs: what a tensor group does forward, and what that means backward.

| function                  | forward        | backward       |
|---------------------------|----------------|----------------|
| `copy_to_group`           | nothing        | all-reduce     |
| `reduce_over_group`       | all-reduce     | nothing        |
| `take_shard`              | own shard      | all-gather     |
| `gather_shards`           | all-gather     | own shard      |
| `gather_sequence`         | all-gather     | reduce-scatter |
| `reduce_scatter_sequence` | reduce-scatter | all-gather     |

The first four stand where the tensor outside is the same on all ranks of the group, and so is its
gradient. The last two stand where the outside is sharded along the sequence. Sums are
taken in the tensor's own type.

All are for a mesh whose tensor group has several ranks, eagerly and in graphs. In a graph Horovod
tells operations apart by their names, which count them in the order in which they are made: ranks
of a group have to run the same model code.

Sources: Megatron-LM, arXiv 1909.08053, section 3 (f and g); sequence parallelism, arXiv
2205.05198, section 4.2.2 (their g and its conjugate).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.tensor.collectives import all_gather, all_reduce, own_shard, reduce_scatter

Pass = Callable[[tf.Tensor], tf.Tensor]
SEQUENCE = 1  # the axis of the sequence in [batch, sequence, features]


def copy_to_group(tensor: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    """Give an unsharded tensor to layers that are sharded; their gradients of it add up."""
    return _pair(
        tensor,
        tf.identity,
        lambda upstream: all_reduce(upstream, mesh, "copy_to_group_gradient"),
    )


def reduce_over_group(tensor: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    """The sum of the ranks' tensors, on each of them."""
    return _pair(tensor, lambda x: all_reduce(x, mesh, "reduce_over_group"), tf.identity)


def take_shard(tensor: tf.Tensor, mesh: Mesh, axis: int) -> tf.Tensor:
    """This rank's shard of an unsharded tensor along `axis`."""
    return _pair(
        tensor,
        lambda x: own_shard(x, mesh, axis),
        lambda upstream: all_gather(upstream, mesh, axis, "take_part_gradient"),
    )


def gather_shards(tensor: tf.Tensor, mesh: Mesh, axis: int) -> tf.Tensor:
    """The unsharded tensor of which the ranks have shards along `axis`."""
    return _pair(
        tensor,
        lambda x: all_gather(x, mesh, axis, "gather_shards"),
        lambda upstream: own_shard(upstream, mesh, axis),
    )


def gather_sequence(tensor: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    """The unsharded sequence, for layers that are sharded; their gradients of it add up."""
    return _pair(
        tensor,
        lambda x: all_gather(x, mesh, SEQUENCE, "gather_sequence"),
        lambda upstream: reduce_scatter(upstream, mesh, SEQUENCE, "gather_sequence_gradient"),
    )


def reduce_scatter_sequence(tensor: tf.Tensor, mesh: Mesh) -> tf.Tensor:
    """This rank's shard along the sequence of the sum of the ranks' tensors."""
    return _pair(
        tensor,
        lambda x: reduce_scatter(x, mesh, SEQUENCE, "reduce_scatter_sequence"),
        lambda upstream: all_gather(upstream, mesh, SEQUENCE, "reduce_scatter_sequence_gradient"),
    )


def _pair(tensor: tf.Tensor, forward: Pass, backward: Pass) -> tf.Tensor:
    @tf.custom_gradient
    def passed(x: tf.Tensor) -> tuple[tf.Tensor, Pass]:
        return forward(x), backward

    return passed(tensor)
