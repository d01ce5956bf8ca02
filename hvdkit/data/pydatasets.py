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

from hvdkit.data.batch import CountedBatch, ShardedBatch, batch_scale_of, kept_positions
from hvdkit.data.contents import Content, samples_of
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.python_batches import batch_of, common_spec, first_row, number_of_rows, spec_of
from hvdkit.data.python_stream import from_python
from hvdkit.data.source import Sharding, pipeline_options

_KERAS_LOOKS_AT = 2


class PyDatasetSource:
    """A `keras.utils.PyDataset`, whose batches may differ in rows and in other dimensions.

    Its `workers` threads load batches ahead. Processes (`use_multiprocessing`) are not started:
    forking a process in which MPI runs is not safe.

    Args:
        dataset: the unsharded data.
        shuffle: whether to shuffle the order of the batches.
        seed: seed of the shuffling.
    """

    first_batch: FirstBatch | None = None

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
        self.rows = number_of_rows(batches[0])
        self.last_rows = number_of_rows(batches[self.count - 1]) if self.count else self.rows
        self.equal = all(
            number_of_rows(batches[i]) == self.rows for i in seen if i + 1 != self.count
        )
        self.spec = common_spec([spec_of(batch) for batch in batches.values()])
        self._seen: list[Content] | None = self._samples(batches)

    @property
    def identity(self) -> list[object]:
        """The number of batches and their rows."""
        rows = f"{self.rows} rows" if self.equal else f"{self.rows} rows, and others next"
        return [f"{self.count} batches", f"{rows}, and at the end {self.last_rows}"]

    def contents(self, *, sampled: bool) -> list[Content]:
        """See `Source.contents`; a second call loads the batches again."""
        if not sampled:
            return []
        seen, self._seen = self._seen, None
        if seen is not None:
            return seen
        return self._samples({i: self._load(i) for i in self._sampled})

    @property
    def _sampled(self) -> list[int]:
        return sorted({0, self.count - 1}) if self.count else [0]

    def _samples(self, batches: dict[int, Any]) -> list[Content]:
        found = [samples_of(batches[i], f"batch {i} of the PyDataset") for i in self._sampled]
        return [sample for samples in found for sample in samples]

    def check(self, sharding: Sharding) -> None:
        """See `Source.check`."""
        if sharding.batch_size is not None:
            raise ValueError("a PyDataset makes its batches itself; leave batch_size out.")
        if sharding.unequal:
            raise ValueError(
                "weights divide the rows of batches, and of a PyDataset each rank takes whole "
                "batches: give hvd.shard the arrays, or file names, and what __getitem__ does to a "
                "row as map=...; or leave weights out."
            )
        if self.count is not None and self.count < sharding.size:
            raise ValueError(
                f"the PyDataset has {self.count} batches, fewer than the {sharding.size} ranks: "
                "make smaller batches, or start fewer ranks."
            )
        if sharding.drop_remainder and not self.equal:
            raise ValueError(
                "the batches of the PyDataset have different numbers of rows, so there is no "
                'remainder to drop: use remainder="pad", which weighs each batch by its rows.'
            )

    def num_batches(self, sharding: Sharding, first: int = 0) -> int | None:
        """See `Source.num_batches`."""
        if self.count is None:
            return None
        full, rest = divmod(self.count - first, sharding.size)
        if sharding.drop_remainder:
            return full - (rest == 0 and self.last_rows != self.rows)
        return full + (rest > 0)

    def rows_of_step(self, sharding: Sharding) -> None:
        """See `Source.rows_of_step`."""

    def may_be_uneven(self, sharding: Sharding, first: int = 0) -> bool:
        """See `Source.may_be_uneven`: known of the first batches and the last."""
        if sharding.drop_remainder or sharding.size == 1:
            return False
        if self.count is None or not self.equal:
            return not self.equal
        return (self.count - first) % sharding.size != 0 or self.last_rows != self.rows

    def place_after(self, sharding: Sharding, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * sharding.size
        return place if self.count is None else min(self.count, place)

    def positions(self, sharding: Sharding, step: int, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        return kept_positions(sharding.rank, sharding.size, step, rows)

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
        self, sharding: Sharding, next_epoch: Callable[[], int], *, in_order: bool, first: int = 0
    ) -> tf.data.Dataset:
        """See `Source.dataset`.

        Each rank loads its own batches only. Where the first ones have equal rows, all have to but
        the last. Where they do not, it is not known before a step how many the others have: then
        the batches come as `CountedBatch`.
        """
        counted = sharding.size > 1 and not sharding.drop_remainder and not self.equal
        uneven = self.may_be_uneven(sharding, first)
        alike = sharding.drop_remainder or (sharding.size > 1 and self.equal)

        def batches() -> Iterator[Any]:
            groups = self._groups(sharding, next_epoch, in_order, first)
            for group, batch in self._loaded(groups, sharding.rank):
                index = group[sharding.rank] if sharding.rank < len(group) else None
                if index is None:
                    batch = first_row(batch)
                elif alike:
                    self._require_rows(index, batch)
                if counted:
                    yield CountedBatch(
                        batch, np.int64(0 if index is None else number_of_rows(batch))
                    )
                elif uneven:
                    yield ShardedBatch(batch, self._scale(group, sharding))
                else:
                    yield batch

        signature = self.spec
        if counted:
            signature = CountedBatch(self.spec, tf.TensorSpec([], tf.int64))
        elif uneven:
            signature = ShardedBatch(self.spec, tf.TensorSpec([], tf.float32))
        return pipeline_options(from_python(batches, signature))

    def _groups(
        self, sharding: Sharding, next_epoch: Callable[[], int], in_order: bool, first: int
    ) -> Iterator[list[int]]:
        """The batches of all ranks in each step."""
        if self.count is None:
            for start in itertools.count(first, sharding.size):
                yield list(range(start, start + sharding.size))
            return
        order = list(range(self.count)) if in_order else self.order(next_epoch())
        if sharding.drop_remainder and self.last_rows != self.rows:
            order.remove(self.count - 1)
        order = order[first:]
        for step in range(self.num_batches(sharding, first) or 0):
            yield order[step * sharding.size : (step + 1) * sharding.size]

    def _scale(self, group: list[int], sharding: Sharding) -> np.float32:
        rows = [self._rows_of(index) for index in group]
        own = rows[sharding.rank] if sharding.rank < len(rows) else 0
        return np.float32(batch_scale_of(own, sum(rows), sharding.size))

    def _rows_of(self, index: int) -> int:
        return self.last_rows if self.count and index == self.count - 1 else self.rows

    def _require_rows(self, index: int, batch: Any) -> None:
        if number_of_rows(batch) != self._rows_of(index):
            raise ValueError(
                f"batch {index} of the PyDataset has {number_of_rows(batch)} rows, and the first "
                f"two batches have {self.rows}: only the last one may then have others. Make all "
                "batches alike, or let the first two differ: then the ranks count the rows before "
                'each step (with remainder="pad").'
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
