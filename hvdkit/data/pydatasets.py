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

from hvdkit.data.batch import ShardedBatch, batch_scale_of
from hvdkit.data.contents import Content, samples_of
from hvdkit.data.first_batch import FirstBatch
from hvdkit.data.source import Part, pipeline_options


class PyDatasetSource:
    """A `keras.utils.PyDataset`, whose batches have equal numbers of rows but for the last.

    Its `workers` threads load batches ahead. Processes (`use_multiprocessing`) are not started:
    forking a process in which MPI runs is not safe.

    Args:
        dataset: the whole data.
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
        first = self._load(0)
        last = self._load(self.count - 1) if self.count else first
        self.rows = _rows(first)
        self.last_rows = _rows(last)
        self._seen: list[Content] | None = self._samples(first, last)
        self.spec = keras.tree.map_structure(
            lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), first
        )

    @property
    def identity(self) -> list[object]:
        """The number of batches and their rows."""
        return [f"{self.count} batches", f"{self.rows} and at the end {self.last_rows} rows"]

    def contents(self, *, sampled: bool) -> list[Content]:
        """See `Source.contents`; a second call loads the batches again."""
        if not sampled:
            return []
        seen, self._seen = self._seen, None
        if seen is not None:
            return seen
        return self._samples(self._load(0), self._load(self.count - 1) if self.count else None)

    def _samples(self, first: Any, last: Any) -> list[Content]:
        samples: list[Content] = list(samples_of(first, "batch 0 of the PyDataset"))
        if self.count:
            samples += samples_of(last, f"batch {self.count - 1} of the PyDataset")
        return samples

    def check(self, part: Part) -> None:
        """See `Source.check`."""
        if part.batch_size is not None:
            raise ValueError("a PyDataset makes its batches itself; leave batch_size out.")
        if self.count is not None and self.count < part.size:
            raise ValueError(
                f"the PyDataset has {self.count} batches, fewer than the {part.size} ranks: "
                "make smaller batches, or start fewer ranks."
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
        """See `Source.may_be_uneven`."""
        if self.count is None or part.drop_remainder or part.size == 1:
            return False
        return (self.count - first) % part.size != 0 or self.last_rows != self.rows

    def place_after(self, part: Part, batches: int, first: int = 0) -> int:
        """See `Source.place_after`."""
        place = first + batches * part.size
        return place if self.count is None else min(self.count, place)

    def positions(self, part: Part, rows: int) -> np.ndarray:
        """See `Source.positions`."""
        own = np.arange(rows)
        step, inside = np.divmod(own, self.rows)
        return (step * part.size + part.rank) * self.rows + inside

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
        """See `Source.dataset`."""
        uneven = self.may_be_uneven(part, first)

        def batches() -> Iterator[Any]:
            if self.count is None:
                groups: Iterator[list[int]] = (
                    [first + step * part.size + r for r in range(part.size)]
                    for step in itertools.count()
                )
            else:
                order = list(range(self.count)) if in_order else self.order(next_epoch())
                if part.drop_remainder and self.last_rows != self.rows:
                    order.remove(self.count - 1)
                order = order[first:]
                steps = self.num_batches(part, first) or 0
                groups = (order[s * part.size : (s + 1) * part.size] for s in range(steps))
            for group, batch in self._loaded(groups, part.rank):
                if part.rank < len(group):
                    self._require_rows(group[part.rank], batch)
                yield self._tagged(group, batch, part) if uneven else batch

        signature = ShardedBatch(self.spec, tf.TensorSpec([], tf.float32)) if uneven else self.spec
        return pipeline_options(tf.data.Dataset.from_generator(batches, output_signature=signature))

    def _tagged(self, group: list[int], batch: Any, part: Part) -> ShardedBatch:
        rows = sum(self._rows_of(index) for index in group)
        has_batch = part.rank < len(group)
        own = self._rows_of(group[part.rank]) if has_batch else 0
        if not has_batch:
            batch = keras.tree.map_structure(lambda a: a[:1], batch)
        return ShardedBatch(batch, np.float32(batch_scale_of(own, rows, part.size)))

    def _require_rows(self, index: int, batch: Any) -> None:
        if _rows(batch) != self._rows_of(index):
            raise ValueError(
                f"batch {index} of the PyDataset has {_rows(batch)} rows, not the "
                f"{self._rows_of(index)} that batch 0 has; only the last batch may be shorter."
            )

    def _rows_of(self, index: int) -> int:
        return self.last_rows if self.count and index == self.count - 1 else self.rows

    def _load(self, index: int) -> Any:
        batch = self.source[index]
        batch = tuple(batch) if isinstance(batch, list) else batch
        return keras.tree.map_structure(np.asarray, batch)

    def _loaded(self, groups: Iterator[list[int]], rank: int) -> Iterator[tuple[list[int], Any]]:
        """Each group with this rank's batch of it (the first one's if it has none), in order.

        `workers` batches are loaded at a time.
        """
        workers = max(1, self.source.workers)
        picked = ((group, group[rank if rank < len(group) else 0]) for group in groups)
        if workers == 1:
            yield from ((group, self._load(index)) for group, index in picked)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[tuple[list[int], Future[Any]]] = deque()
            for group, index in picked:
                waiting.append((group, pool.submit(self._load, index)))
                if len(waiting) >= workers:
                    first, batch = waiting.popleft()
                    yield first, batch.result()
            while waiting:
                first, batch = waiting.popleft()
                yield first, batch.result()


def _rows(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])
