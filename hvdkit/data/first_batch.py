"""The first batch of data that can be read once only, such as a Python generator's.

It can't be looked at before: what is read then is missing later. So it is noted while it passes,
and compared after the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.contents import REMEDY, Sample, sample_of
from hvdkit.engine import ProcessSet, RankMismatchError, allgather_object, topology


class FirstBatch:
    """What the first global batch of a pass holds.

    Args:
        draws: whether a `map` draws random numbers on the way, so floats and images may differ.
    """

    def __init__(self, draws: bool) -> None:
        self._draws = draws
        self._seen: list[Sample] = []

    def noted(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, of which the first is looked at in passing.

        Args:
            batches: those of all ranks.
        """

        def note(*parts: np.ndarray) -> np.int64:
            self._seen = [sample_of(part, f"part {i}") for i, part in enumerate(parts)]
            return np.int64(0)

        def pass_on(step: tf.Tensor, batch: Any) -> Any:
            parts = tf.nest.flatten(batch, expand_composites=True)
            rows = [part for part in parts if part is not None and part.shape.rank != 0]
            number = tf.cond(
                step == 0, lambda: tf.numpy_function(note, rows, tf.int64), lambda: step
            )
            return number, batch

        return batches.enumerate().map(pass_on).map(lambda _, batch: batch)

    def require_same(self, process_set: ProcessSet) -> None:
        """Raise on every rank unless the ranks have read the same batch; all of them call it.

        Args:
            process_set: the ranks that divide the data.

        Raises:
            RankMismatchError: on every rank.
        """
        everyone = allgather_object(
            self._seen, name="hvdkit.data_first_batch", process_set=process_set
        )
        ranks = topology.process_set_ranks(process_set)
        for rank, other in zip(ranks[1:], everyone[1:], strict=True):
            if difference := self._difference(everyone[0], other, ranks[0], rank):
                raise RankMismatchError(
                    f"the ranks do not hold the same data: in the first batch {difference}. "
                    f"{REMEDY}."
                )

    def _difference(
        self, own: Sequence[Sample], other: Sequence[Sample], rank: int, other_rank: int
    ) -> str | None:
        """How two ranks' batches differ, unless only by what may be drawn at random."""
        pairs = list(zip(own, other, strict=False))
        texts = [mine.difference(theirs, rank, other_rank) for mine, theirs in pairs]
        telling = [mine.tells_rows_apart for mine, _ in pairs]
        if any(tells and text is None for tells, text in zip(telling, texts, strict=True)):
            return None  # the rows are the same, as their labels show
        if self._draws and sum(telling) < 2:
            return None  # nothing but what is drawn could tell
        return next((text for text in texts if text), None)
