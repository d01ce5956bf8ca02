"""Variables that become this rank's shards of themselves, in place, and whole again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.mesh.layout import Layout, set_layout
from hvdkit.parallel.tensor.regularizers import sharded_regularizer


@contextmanager
def whole_shape(variable: Any, layout: Layout | None) -> Iterator[None]:
    """While inside, a sharded variable says that it has its whole shape."""
    shape = variable._shape
    if layout is not None:
        variable._shape = layout.unsharded_shape(tuple(shape))
    try:
        yield
    finally:
        variable._shape = shape


class Sharding:
    """A variable whose value is a shard of what it was; everybody who has it sees that.

    Args:
        variable: a `keras.Variable` with a value, the same on all ranks of the group.
        layout: how it lies over the ranks from now on.
    """

    def __init__(self, variable: Any, layout: Layout) -> None:
        self.variable = variable
        self._before = variable._value, variable._shape, variable._regularizer
        regularizer = sharded_regularizer(variable.regularizer, layout)
        if layout.shards:
            shard = layout.shard_of(np.asarray(variable.value))
            with tf.init_scope():
                variable._value = None
                variable._initialize(tf.constant(shard, dtype=variable._dtype))
            variable._shape = tuple(shard.shape)
        variable._regularizer = regularizer
        set_layout(variable, layout)

    def undo(self) -> None:
        """Give the variable back the value that it had."""
        self.variable._value, self.variable._shape, self.variable._regularizer = self._before
        for one in (self.variable, self.variable._value):
            vars(one).pop("_hvdkit_layout", None)

    def settle(self) -> None:
        """Let go of the whole value, and of its memory."""
        self._before = None, None, None
