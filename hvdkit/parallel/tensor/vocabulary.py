"""Which rows of a vocabulary a rank holds."""

from __future__ import annotations

import tensorflow as tf

from hvdkit.mesh.mesh import Mesh


def own_rows(ids: tf.Tensor, rows: int, mesh: Mesh) -> tuple[tf.Tensor, tf.Tensor]:
    """Where ids of the unsharded vocabulary are in this rank's shard of it.

    Ids that no rank has count as the first rank's, if negative, or the last's, which then treats
    them as it would without other ranks: on a CPU with an error.

    Args:
        ids: integers of any shape.
        rows: how many a rank holds.
        mesh: the mesh.

    Returns:
        The row in this rank's shard, 0 where it is another's; and whether it is this rank's (bool).
    """
    local = ids - tf.cast(mesh.tensor_index * rows, ids.dtype)
    own = tf.ones_like(ids, tf.bool)
    if mesh.tensor_index > 0:
        own &= local >= 0
    if mesh.tensor_index < mesh.tensor - 1:
        own &= local < rows
    return tf.where(own, local, tf.zeros_like(local)), own
