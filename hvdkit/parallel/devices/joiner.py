"""What puts together what the shards of a layer return."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Joiner(keras.layers.Layer):
    """Puts together what the shards return: sums, or concatenates along the last axis.

    Args:
        add: sum, not concatenate.
        activation: applied to the result.
        bias: shape of a bias that is added to the result; None for none.
    """

    def __init__(
        self,
        add: bool,
        activation: Any = None,
        bias: Any = None,
        regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._add, self._activation = add, activation
        self._bias_shape, self._regularizer = bias, regularizer
        self.bias: Any = None
        self.supports_masking = True

    def build(self, *_: Any, **__: Any) -> None:
        """Make the bias."""
        if self._bias_shape is not None:
            self.bias = self.add_weight(
                shape=self._bias_shape,
                initializer="zeros",
                regularizer=self._regularizer,
                name="bias",
            )

    def call(self, outputs: list[Any]) -> Any:
        """Join tensors of the shapes (..., n)."""
        joined = tf.add_n(outputs) if self._add else tf.concat(outputs, axis=-1)
        if self.bias is not None:
            joined += tf.convert_to_tensor(self.bias)
        return joined if self._activation is None else self._activation(joined)

    def compute_mask(self, outputs: Any, previous_mask: Any = None) -> None:
        """None: the sharded layer says which mask its output has."""
