"""Multi-head attention whose heads are sharded over devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.parallel.devices.joiner import Joiner
from hvdkit.parallel.devices.optimizer_placement import do_not_convert
from hvdkit.parallel.devices.sharded_layer import (
    Arrays,
    DeviceShardedLayer,
    concatenated,
    own_arguments,
    sliced,
)

# Of the weights of a projection, kernel (features, heads, size) and bias (heads, size).
_HEADS = -2


@keras.saving.register_keras_serializable("hvdkit")
class SplitMultiHeadAttention(DeviceShardedLayer):
    """`keras.layers.MultiHeadAttention` whose heads are sharded over the devices of this process.

    Each device projects the inputs for its heads, attends, and multiplies with its rows of the
    output's kernel; the products are summed on the first device, which holds the output's bias
    (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053, section 3). The result is that of the
    unsharded layer, and so are the first weights for the same seed. With `dropout` each device
    draws for its own heads, so other scores are dropped than in the unsharded layer.

    Args:
        num_heads: number of heads.
        key_dim: size of a head's queries and keys.
        devices: names such as "GPU:0", some of the heads for each; None for all of this process's
            GPUs, or logical CPU devices if it has none.
        **kwargs: as for `keras.layers.MultiHeadAttention`, without constraints.

    Call arguments:
        query, value, key, query_mask, value_mask, key_mask, attention_mask,
            return_attention_scores, training, use_causal_mask: as for
            `keras.layers.MultiHeadAttention`. Queries are of the shape (batch, targets, features),
            values and keys (batch, sources, features), `attention_mask` (batch, targets, sources).

    Raises:
        ValueError: a device does not exist, or there are more than heads; a constraint, or a
            regularizer other than L1, L2 and L1L2.

    Example:
        >>> attention = hvd.parallel.SplitMultiHeadAttention(8, 64, ["GPU:0", "GPU:1"])
        >>> y = attention(x, x, use_causal_mask=True)
    """

    def __init__(
        self, num_heads: int, key_dim: int, devices: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        own = own_arguments(kwargs)
        unsharded = keras.layers.MultiHeadAttention(num_heads, key_dim, **kwargs, **own)
        super().__init__(unsharded, devices, num_heads, "heads", **own)
        self.supports_masking = True

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Make the weights on their devices."""
        self.build_shards(query_shape, value_shape, key_shape)

    @do_not_convert
    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Attend on all devices, each with its heads."""
        for shard in self._held.shards:
            shard.use_causal_mask = use_causal_mask
            shard.return_attention_scores = return_attention_scores
        given = {
            "query": query,
            "value": value,
            "key": value if key is None else key,
            "query_mask": query_mask,
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
        }
        output, *scores = self.run_shards({k: v for k, v in given.items() if v is not None})
        return (output, scores[0]) if return_attention_scores else output

    def compute_mask(self, query: Any, value: Any, query_mask: Any = None, **_: Any) -> Any:
        """The mask of the queries."""
        return query_mask

    def make_shards(self, unsharded: Any) -> tuple[list[Any], Any]:
        """Attention layers of some heads each."""
        config = {**unsharded.get_config(), "kernel_initializer": "zeros", "name": None}
        shards = [
            SomeHeads(Heads.from_config({**config, "num_heads": stop - start}))
            for start, stop in self.ranges
        ]
        return shards, JoinedHeads(
            unsharded._output_shape,
            unsharded.use_bias,
            unsharded._bias_regularizer,
            unsharded.dtype_policy,
        )

    def shard(self, weights: Arrays) -> list[Arrays]:
        """The weights of some heads each, and the output's bias."""
        last = -2 if self._held.unsharded.use_bias else -1
        projections, (kernel, *bias) = weights[:last], weights[last:]
        slices = [sliced(weight, self.ranges, _HEADS) for weight in projections]
        slices.append(sliced(kernel, self.ranges, 0))
        return [*map(list, zip(*slices, strict=True)), bias]

    def merge(self, weights: list[Arrays]) -> Arrays:
        """The weights of all heads."""
        *shards, own = weights
        *projections, kernels = zip(*shards, strict=True)
        merged: list[np.ndarray] = [concatenated(column, _HEADS) for column in projections]
        return [*merged, concatenated(kernels, 0), *own]


class Heads(keras.layers.MultiHeadAttention):
    """Attention without the bias of the output, which is added once to the sum."""

    _use_bias: bool

    def _make_output_dense(self, *args: Any, **kwargs: Any) -> Any:
        use_bias, self._use_bias = self._use_bias, False
        try:
            return super()._make_output_dense(*args, **kwargs)
        finally:
            self._use_bias = use_bias


class SomeHeads(keras.layers.Layer):
    """Some heads, which take their inputs in one dictionary."""

    def __init__(self, heads: Heads) -> None:
        """Hold the layer."""
        super().__init__(dtype=heads.dtype_policy)
        self.heads = heads
        self.use_causal_mask = self.return_attention_scores = False

    def build(self, *shapes: Any) -> None:
        """Make the weights."""
        self.heads.build(*shapes)

    def call(self, given: dict[str, Any]) -> list[Any]:
        """Returns the heads' products, and their scores if asked for."""
        found = self.heads(
            **given,
            use_causal_mask=self.use_causal_mask,
            return_attention_scores=self.return_attention_scores,
        )
        return list(found) if self.return_attention_scores else [found]


class JoinedHeads(keras.layers.Layer):
    """The sum of what the heads return, with the output's bias, and the scores of all heads."""

    def __init__(self, shape: Any, use_bias: bool, regularizer: Any, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self._shape, self._use_bias, self._regularizer = shape, use_bias, regularizer
        self._sum: Any = None
        self.supports_masking = True

    def build(self, query_shape: Any, *_: Any) -> None:
        """Make the bias."""
        shape = self._shape or (query_shape[-1],)
        bias = tuple(shape) if self._use_bias else None
        self._sum = Joiner(True, None, bias, self._regularizer, dtype=self.dtype_policy)
        self._sum.build()

    def call(self, outputs: list[list[Any]]) -> list[Any]:
        """Returns the sum, and the scores if there are any."""
        sums, *scores = zip(*outputs, strict=True)
        return [self._sum(list(sums)), *(tf.concat(each, axis=1) for each in scores)]

    def compute_mask(self, outputs: Any, previous_mask: Any = None) -> None:
        """None: the sharded layer says which mask its output has."""
