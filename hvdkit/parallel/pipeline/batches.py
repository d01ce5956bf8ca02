"""The same batch on all stages."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet, RankMismatchError, raise_everywhere, require_same


def as_tensors(data: Any) -> Any:
    """A batch as tensors, in its structure."""
    return keras.tree.map_structure(
        lambda leaf: leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf),
        data,
    )


def require_same_batch(data: Any, stages: ProcessSet) -> None:
    """Check that all stages were given the same rows; all of them call it.

    Args:
        data: a batch: x, y and sample weights in any structure.
        stages: the ranks of the pipeline.

    Raises:
        RankMismatchError: on every stage: the batches differ.
    """
    try:
        require_same("the batches of the stages", [_digest(data)], stages)
    except RankMismatchError as error:
        problem = (
            f"{error} All ranks of a pipeline have to be given the same rows in the same order: "
            "use hvd.shard, or the same arrays and the same seed for shuffling (hvd.set_mesh and "
            "hvd.set_random_seed)."
        )
        raise_everywhere(problem, RankMismatchError, stages)


def _digest(data: Any) -> str:
    leaves = [leaf for leaf in keras.tree.flatten(data) if isinstance(leaf, tf.Tensor)]
    crc = 0
    for leaf in leaves:
        crc = zlib.crc32(_bytes(leaf), crc)
    shapes = ", ".join(f"{leaf.dtype.name} {tuple(leaf.shape)}" for leaf in leaves)
    return f"{shapes} with checksum {crc:08x}"


def _bytes(tensor: tf.Tensor) -> bytes | np.ndarray:
    if tensor.dtype == tf.string:
        return tf.io.serialize_tensor(tensor).numpy()  # type: ignore[no-any-return]
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
