"""An Embedding whose table is sharded over devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.parallel.devices.joiner import Joiner
from hvdkit.parallel.devices.optimizer_placement import do_not_convert
from hvdkit.parallel.devices.sharded_layer import (
    Arrays,
    DeviceShardedLayer,
    concatenated,
    own_arguments,
    require_way,
    sliced,
)


@keras.saving.register_keras_serializable("hvdkit")
class SplitEmbedding(DeviceShardedLayer):
    """`keras.layers.Embedding` whose table is sharded over the devices of this process.

    By columns, each device looks up some of the numbers of each vector; by rows, each holds the
    vectors of some of the ids, and gives zeros for the others. The result is that of the unsharded
    layer, and so are the first weights for the same seed.

    Args:
        input_dim: number of ids.
        output_dim: size of the vectors.
        devices: names such as "GPU:0", a shard for each; None for all of this process's GPUs, or
            logical CPU devices if it has none.
        split: "columns" or "rows".
        **kwargs: as for `keras.layers.Embedding`, without a constraint.

    Call arguments:
        inputs: integers of the shape (...); the result has the shape (..., output_dim).

    Raises:
        ValueError: a device does not exist, or there are more than there is to shard; another
            `split`; a constraint, or a regularizer other than L1, L2 and L1L2.

    Example:
        >>> layer = hvd.parallel.SplitEmbedding(50000, 512, ["GPU:0", "GPU:1"], split="rows")
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        devices: Sequence[str] | None = None,
        split: str = "columns",
        **kwargs: Any,
    ) -> None:
        require_way(split)
        own = own_arguments(kwargs)
        unsharded = keras.layers.Embedding(input_dim, output_dim, **kwargs, **own)
        count = output_dim if split == "columns" else input_dim
        super().__init__(unsharded, devices, count, split, **own)
        self.split = split
        self.mask_zero = unsharded.mask_zero
        self.supports_masking = unsharded.mask_zero
        self.autocast = False

    def build(self, input_shape: Any) -> None:
        """Make the weights on their devices."""
        self.build_shards(input_shape)

    @do_not_convert
    def call(self, inputs: Any) -> Any:
        """Look up on all devices."""
        if not keras.backend.is_int_dtype(inputs.dtype):
            inputs = tf.cast(inputs, tf.int32)
        return self.run_shards(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Where the ids are not 0, if the layer masks them."""
        return keras.ops.not_equal(inputs, 0) if self.mask_zero else None

    def make_shards(self, unsharded: Any) -> tuple[list[Any], Any]:
        """Embeddings of shorter vectors or of fewer ids."""
        common = {
            "embeddings_initializer": "zeros",
            "embeddings_regularizer": unsharded.embeddings_regularizer,
            "dtype": unsharded.dtype_policy,
        }
        rows = self.split == "rows"
        if rows:
            shards = [
                EmbeddingOfSomeIds(ids, unsharded.output_dim, **common) for ids in self.ranges
            ]
        else:
            shards = [
                keras.layers.Embedding(unsharded.input_dim, b - a, **common) for a, b in self.ranges
            ]
        return shards, Joiner(rows, dtype=unsharded.dtype_policy)

    def shard(self, weights: Arrays) -> list[Arrays]:
        """Slices of the table."""
        (table,) = weights
        return [*([shard] for shard in sliced(table, self.ranges, self._axis)), []]

    def merge(self, weights: list[Arrays]) -> Arrays:
        """The unsharded table."""
        return [concatenated([shard for (shard,) in weights[:-1]], self._axis)]

    def get_config(self) -> dict[str, Any]:
        """The unsharded layer's configuration, the devices, and how it is sharded."""
        return {**super().get_config(), "split": self.split}

    @property
    def _axis(self) -> int:
        return 0 if self.split == "rows" else -1


class EmbeddingOfSomeIds(keras.layers.Embedding):
    """An Embedding of a range of ids, with zeros for all others."""

    def __init__(self, ids: tuple[int, int], output_dim: int, **kwargs: Any) -> None:
        super().__init__(ids[1] - ids[0], output_dim, **kwargs)
        self._ids = ids

    def call(self, inputs: Any) -> Any:
        """Look up its ids."""
        start, stop = self._ids
        mine = (inputs >= start) & (inputs < stop)
        found = super().call(tf.where(mine, inputs - start, tf.zeros_like(inputs)))
        return tf.where(mine[..., None], found, tf.zeros_like(found))
