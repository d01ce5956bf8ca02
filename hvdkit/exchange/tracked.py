"""What one variable of a training is: a row of the inventory.

Broadcast, the consistency check, checkpoints and elastic jobs all read such rows
(`hvdkit.state.inventory`), so a method that keeps state of its own, such as the residuals of a
compression, is sent, compared, saved and resumed once it says here what its variables are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from hvdkit.engine import ProcessSet
from hvdkit.mesh.layout import Layout


class Role(Enum):
    """What a variable is in a training."""

    WEIGHT = "weight"
    """A weight of the model that an optimizer trains, or that is frozen."""
    SLOT = "slot"
    """A variable of an optimizer: its step, its learning rate, its moments."""
    STATISTIC = "statistic"
    """A weight that a layer updates from the rows it sees. Floats are averaged over `same_on` at
    the end of an epoch and before they are saved; between that each rank has its own."""
    SEED = "seed"
    """The state of a seed generator; each replica's own, derived from the first one's."""
    ACCUMULATOR = "accumulator"
    """Gradients that a rank has summed up and not yet reduced."""
    LOCAL = "local"
    """A variable that is each rank's own for good (`register_local_var`, or the layer says so)."""
    RECURRENT = "recurrent"
    """The state of a stateful RNN, of a rank's last rows."""
    METRIC = "metric"
    """A sum of a running metric, over the rows that a rank has seen in an epoch."""
    RESIDUAL = "residual"
    """What a rank has not yet sent of its gradients, or their velocity; each rank's own."""


@dataclass(frozen=True)
class Shard:
    """What a rank holds of a variable whose elements are spread over the replicas.

    The elements lie in rows, as in memory, and each is held by one replica.

    Attributes:
        start: the first element that is held.
        stop: the one after the last; `start` if none is.
        shape: the unsharded variable's; on a rank that holds no element, any.

    Example:
        >>> Shard(2, 5, (2, 3)).of(np.arange(6).reshape(2, 3))
        array([2, 3, 4])
    """

    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements that are held."""
        return self.stop - self.start

    @property
    def is_all(self) -> bool:
        """Whether this rank holds all elements, so that they have the variable's shape."""
        return 0 < self.size == math.prod(self.shape)

    def of(self, array: np.ndarray) -> np.ndarray:
        """The elements of an unsharded array that this rank holds: flat, but for all of them."""
        if self.is_all:
            return array
        return array.reshape(-1)[self.start : self.stop]


@dataclass(frozen=True, eq=False)  # variables of Keras are compared by value, into a tensor
class Tracked:
    """One variable of a training.

    Attributes:
        variable: a `keras.Variable` or `tf.Variable`.
        role: what it is.
        path: its name in files and messages.
        layout: how it lies over the ranks of a mesh; None if it is unsharded.
        same_on: the ranks that hold the same value, or the same shard; None if each rank has its
            own. Those of a tensor group that hold no shards of it have the same value, too.
        shard: what the variable holds of an unsharded one, whose layout `layout` then is; None
            where it holds all. Checkpoints put shards together again for any number of ranks.
        own_slots: of a weight, whether each rank has slots of its own for it, though the ranks
            hold the same value. Where they do not, their slots are their own without a word.
        resumes_from_mean: with `same_on=None`, whether the mean over the ranks is right for all of
            them where another number of ranks goes on; a shard has none.
    """

    variable: Any
    role: Role
    path: str
    layout: Layout | None = None
    same_on: ProcessSet | None = None
    shard: Shard | None = None
    own_slots: bool = False
    resumes_from_mean: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold different shards of it."""
        return self.layout is not None and self.layout.is_sharded
