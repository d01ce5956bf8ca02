"""keras.utils.PyDataset: rank r takes every N-th batch, starting with the r-th."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.batch import CountedBatch, kept_positions
from hvdkit.data.python_batches import batch_of, common_spec, first_row, row_count, spec_of
from hvdkit.data.python_stream import from_python
from hvdkit.data.source import Part, pipeline_options

_KERAS_LOOKS_AT = 2


class PyDatasetSource:
    """A `keras.utils.PyDataset`, whose batches may differ in rows and in other dimensions.

    Its `workers` threads load batches ahead. Processes (`use_multiprocessing`) are not started:
    forking a process in which MPI runs is not safe.

    Args:
        dataset: the whole data.
        shuffle: whether to shuffle the order of the batches.
        seed: seed of the shuffling.
    """

    def __init__(self, dataset: keras.utils.PyDataset, shuffle: bool, seed: int) -> None:
        self.source = dataset
        self.count: int | None = dataset.num_batches
        if self.count is not None and self.count <= 0:
            raise ValueError("the PyDataset has no batches.")
        self.shuffle = shuffle and self.count is not None
        self.seed = seed
        # As in `fit`, dimensions are unknown that differ in the first batches, or in the last.
        seen = {min(i, (self.count or i + 1) - 1) for i in range(_KERAS_LOOKS_AT)}
        batches = {i: self._load(i) for i in seen | ({self.count - 1} if self.count else set())}
        self.rows = row_count(batches[0])
        self.last_rows = row_count(batches[self.count - 1]) if self.count else self.rows
        self.equal = all(row_count(batches[i]) == self.rows for i in seen if i + 1 != self.count)
        self.spec = common_spec([spec_of(batch) for batch in batches.values()])

    @property
    def identity(self) -> list[object]:
        """The number of batches and their rows."""
        return [f"{self.count} batches", f"{self.rows} and at the end {self.last_rows} rows"]

    def check(self, part: Part) -> None:
        """See `Source.check`."""
        if part.batch_size is not None:
            raise ValueError("a PyDataset makes its batches itself; leave batch_size out.")
        if self.count is not None and self.count < part.size:
            raise ValueError(
                f"the PyDataset has {self.count} batches, fewer than the {part.size} ranks: "
                "make smaller batches, or start fewer ranks."
            )
        if part.drop_remainder and not self.equal:
            raise ValueError(
                "the batches of the PyDataset have different numbers of rows, so there is no "
                'remainder to drop: use remainder="pad", which weighs each batch by its rows.'
            )

    def num_batches(self, part: Part, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        if self.count is None:
            return None
        full, rest = divmod(self.count - first, part.size)
        if part.drop_remainder:
            return full - (rest == 0 and self.last_rows != self.rows)
        return full + (rest > 0)

    def may_be_uneven(self, part: Part, first: int = 0) -> bool:
        """See `Source.may_be_uneven`: known of the first batches and the last."""
        if part.drop_remainder or part.size == 1:
            return False
        if self.count is None or not self.equal:
            return not self.equal
        return (self.count - first) % part.size != 0 or self.last_rows != self.rows

    def place_after(self, part: Part, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * part.size
        return place if self.count is None else min(self.count, place)

    def positions(self, part: Part, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return kept_positions(part.rank, part.size, step, rows)

    def on_epoch_begin(self) -> None:
        """Tell the PyDataset."""
        self.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the PyDataset."""
        self.source.on_epoch_end()

    def order(self, epoch: int) -> list[int]:
        """The order of the batches in an epoch; the short one stays last where it is dropped."""
        assert self.count is not None
        if not self.shuffle:
            return list(range(self.count))
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return [int(index) for index in order]

    def dataset(
        self, part: Part, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`.

        How many rows the others have in a step is not known before it, as each rank loads its own
        batches only: so the batches of several ranks come as `CountedBatch`.
        """
        counted = part.size > 1 and not part.drop_remainder

        def batches() -> Iterator[Any]:
            groups = self._groups(part, next_epoch, in_order, first)
            for group, batch in self._loaded(groups, part.rank):
                own = part.rank < len(group)
                if part.drop_remainder:
                    self._require_full(group[part.rank], batch)
                if not counted:
                    yield batch
                elif own:
                    yield CountedBatch(batch, np.int64(row_count(batch)))
                else:
                    yield CountedBatch(first_row(batch), np.int64(0))

        signature = CountedBatch(self.spec, tf.TensorSpec([], tf.int64)) if counted else self.spec
        return pipeline_options(from_python(batches, signature))

    def _groups(
        self, part: Part, next_epoch: Callable[[], int], in_order: bool, first: int
    ) -> Iterator[list[int]]:
        """The batches of all ranks in each step."""
        if self.count is None:
            for step in itertools.count():
                start = first + step * part.size
                yield list(range(start, start + part.size))
        order = list(range(self.count)) if in_order else self.order(next_epoch())
        if part.drop_remainder and self.last_rows != self.rows:
            order.remove(self.count - 1)
        order = order[first:]
        for step in range(self.num_batches(part, first) or 0):
            yield order[step * part.size : (step + 1) * part.size]

    def _require_full(self, index: int, batch: Any) -> None:
        if row_count(batch) != self.rows:
            raise ValueError(
                f"batch {index} of the PyDataset has {row_count(batch)} rows and batch 0 has "
                f'{self.rows}: use remainder="pad", which weighs each batch by its rows.'
            )

    def _load(self, index: int) -> Any:
        return batch_of(self.source[index])

    def _fitting(self, index: int) -> Any:
        batch = self._load(index)
        for mine, spec in zip(
            tf.nest.flatten(spec_of(batch)), tf.nest.flatten(self.spec), strict=True
        ):
            if mine is not None and not spec.shape.is_compatible_with(mine.shape):
                raise ValueError(
                    f"batch {index} of the PyDataset has values of shape {tuple(mine.shape)}, "
                    f"and the batches at its begin and end are of shape {tuple(spec.shape)}, "
                    "where None is any number: let the first two batches differ in each "
                    "dimension that may differ, or pad all batches to one shape."
                )
        return batch

    def _loaded(self, groups: Iterator[list[int]], rank: int) -> Iterator[tuple[list[int], Any]]:
        """Each group with this rank's batch of it (the first one's if it has none), in order.

        `workers` batches are loaded at a time.
        """
        workers = max(1, self.source.workers)
        picked = ((group, group[rank if rank < len(group) else 0]) for group in groups)
        if workers == 1:
            yield from ((group, self._fitting(index)) for group, index in picked)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[tuple[list[int], Future[Any]]] = deque()
            for group, index in picked:
                waiting.append((group, pool.submit(self._fitting, index)))
                if len(waiting) >= workers:
                    first, batch = waiting.popleft()
                    yield first, batch.result()
            while waiting:
                first, batch = waiting.popleft()
                yield first, batch.result()
