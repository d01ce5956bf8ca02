"""What every kind of data offers to be sharded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from hvdkit.data.contents import Content
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.shares import EQUAL, Deal, Shares


@dataclass(frozen=True)
class Sharding:
    """How data is sharded over ranks, and which shard a rank reads.

    Attributes:
        rank: this rank's number in the process set.
        size: number of ranks in the process set.
        batch_size: rows of one rank in a full batch, on average over the ranks; None where the data
            is batched already.
        drop_remainder: leave out the last, short global batch.
        shares: how the rows of a global batch are shared.
    """

    rank: int
    size: int
    batch_size: int | None
    drop_remainder: bool
    shares: Shares = EQUAL

    @property
    def unequal(self) -> bool:
        """Whether ranks may have different numbers of rows in a batch that divides."""
        return self.size > 1 and self.shares.unequal

    def deal(self, rows: int) -> Deal:
        """How global batches of so many rows are dealt out that are read in order."""
        return self.shares.now(self.size, rows)

    def deals(self, rows: int, *, in_order: bool) -> Callable[[int], Deal]:
        """How global batches of so many rows are dealt out in a pass that begins now, by step."""
        if in_order:
            deal = self.deal(rows)
            return lambda step: deal
        return self.shares.by_step(self.size, rows)


class Source(Protocol):
    """Arrays, a `tf.data.Dataset`, or a `keras.utils.PyDataset`."""

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was seen of data that can be read once only; None for all other data."""
        ...

    @property
    def identity(self) -> list[object]:
        """What must be equal on all ranks, such as the number of rows."""
        ...

    def contents(self, *, sampled: bool) -> list[Content]:
        """What the data holds, in a few numbers, to be compared with that of the other ranks.

        A second call looks again: what is another then is drawn at random.

        Args:
            sampled: whether to look at rows.
        """
        ...

    def check(self, sharding: Sharding) -> None:
        """Raise ValueError where the data can't be sharded so."""
        ...

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """Batches of an epoch from place `first` on, equal on all ranks; None if not known."""
        ...

    def rows_of_step(self, sharding: Sharding) -> int | None:
        """Rows of a full global batch, which are dealt out; None where ranks take whole batches."""
        ...

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """Whether ranks may have different numbers of rows in a batch from place `first` on."""
        ...

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """The place in an epoch's order after some batches of all ranks, begun at `first`.

        A place counts rows over all ranks (of a PyDataset: its batches), so it means the same to
        another number of ranks.
        """
        ...

    def dataset(
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """The rank's batches of one epoch.

        Args:
            sharding: which shard to read.
            next_epoch: called at the start of each pass; says which epoch's order to use.
            in_order: do not shuffle.
            first: the place in the epoch's order to start at, see `place_after`.

        Returns:
            A dataset of `ShardedBatch` where `may_be_uneven`, of plain batches otherwise.
        """
        ...

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """Where the rows that this rank reads in a step, in order, stand in the whole data.

        Returns:
            Two integers for each row, which sort all rows of all ranks into the order of the data.
        """
        ...

    def on_epoch_begin(self) -> None:
        """Called before each epoch."""
        ...

    def on_epoch_end(self) -> None:
        """Called after each epoch."""
        ...


def pipeline_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetch, in a fixed order, and leave autotuning out."""
    options = tf.data.Options()
    options.deterministic = True
    return without_autotuning(dataset.prefetch(2).with_options(options))


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Leave TensorFlow's autotuning out.

    Where ranks fill the cores, the thread that tunes may miss the end of its iterator, and whoever
    deletes the iterator then waits for it, for up to a minute, and with it all ranks.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
