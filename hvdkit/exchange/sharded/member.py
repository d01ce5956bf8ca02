"""One variable of a sharded optimizer, and what this rank owns of it."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from hvdkit.exchange.tracked import Shard
from hvdkit.mesh.variable import elements_of, path_of, raw


class Member:
    """A variable, and what this rank updates in its place.

    Args:
        variable: a `keras.Variable` or `tf.Variable`.
        start: the first of the elements that this rank owns.
        stop: the one after the last.

    Attributes:
        variable: the variable.
        shape: its shape.
        shard: what this rank owns.
        owned: the variable itself, where this rank owns all of it; else a flat `keras.Variable` of
            the rank's elements, under the path of the variable, or one without elements.
    """

    def __init__(self, variable: Any, start: int, stop: int) -> None:
        self.variable = variable
        self.shape = tuple(variable.shape)
        self.shard = Shard(start, stop, self.shape)
        self.owned = variable if self.shard.is_all else self._made()

    @property
    def size(self) -> int:
        """Number of elements of the variable."""
        return math.prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether this rank owns all of the variable."""
        return self.owned is self.variable

    def own_elements(self) -> tf.Tensor:
        """The elements of the variable that this rank owns, flat."""
        return elements_of(self.variable, self.shard.start, self.shard.stop)

    def refresh(self) -> None:
        """Let what is owned have the values of the variable, which others change, too."""
        if not self.is_whole and self.shard.size:
            self.owned.assign(self.own_elements())

    def updated_elements(self) -> tf.Tensor:
        """What is owned, flat."""
        return tf.reshape(tf.convert_to_tensor(raw(self.owned)), [-1])

    def take(self, flat: tf.Tensor) -> None:
        """Set the variable to the elements of all ranks."""
        if not self.is_whole:
            self.variable.assign(tf.reshape(flat, self.shape))

    def _made(self) -> keras.Variable:
        path = path_of(self.variable)
        values = self.own_elements()
        if not self.shard.size:
            # As many dimensions as the variable has: rules look at them.
            values = tf.zeros([0] * max(1, len(self.shape)), values.dtype)
        with tf.device(raw(self.variable).device):
            made = keras.Variable(
                values,
                dtype=keras.backend.standardize_dtype(self.variable.dtype),
                trainable=False,
                name=path.rpartition("/")[2].partition(":")[0],
            )
        made._path = path  # so that slots are called as those of the variable
        return made
