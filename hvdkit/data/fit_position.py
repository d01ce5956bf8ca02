"""Where a `fit` stands in its training data, and how it starts in the middle of an epoch.

Keras's `fit` can start at an epoch. Its loop goes over the steps that its epoch iterator hands
out, each with an iterator over the data: to start at a batch, the steps before it are left out,
and the data of this one pass starts there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hvdkit.data.adapter import ShardedAdapter

_current: ContextVar[FitPosition | None] = ContextVar("hvdkit_fit_position", default=None)


def current_position() -> FitPosition | None:
    """The position of the `fit` that runs; None outside of `fit`, and in its validation."""
    return _current.get()


@contextlib.contextmanager
def positioned(position: FitPosition | None) -> Iterator[None]:
    """While inside, `current_position` is this one."""
    token = _current.set(position)
    try:
        yield
    finally:
        _current.reset(token)


@dataclass(frozen=True)
class _Start:
    batch: int
    state: dict[str, int] | None = None  # None: after so many batches of a pass that begins now
    before_first_step: Callable[[Any], None] = lambda spec: None


class FitPosition:
    """Where one `fit` stands in its training data.

    A pass over the data is an epoch, or, with `steps_per_epoch`, goes on over several.

    Args:
        adapter: what Keras reads data from `hvd.shard` through; None for other data.

    Attributes:
        resumed: whether the epoch that runs has been started in its middle.
    """

    def __init__(self, adapter: ShardedAdapter | None) -> None:
        self.resumed = False
        self._adapter = adapter
        self._iterator: Any = None
        self._start: _Start | None = None
        self._pass_epoch = 0
        self._pass_place = 0
        self._pass_batches = 0

    def can_start_at(self, state: dict[str, int], *, same_ranks: bool) -> bool:
        """Whether this `fit` can go on where another one stood.

        Args:
            state: what `state` returned.
            same_ranks: whether as many ranks run as there were; data from `hvd.shard` can be
                sharded anew.
        """
        sharded = self._adapter is not None
        return not state or (sharded == ("place" in state) and (same_ranks or sharded))

    def state(self, *, epoch_ended: bool) -> dict[str, int]:
        """Where the pass over the data stands, as plain data for `start_at`."""
        seen = self._iterator._steps_seen
        if epoch_ended and self._iterator.steps_per_epoch is None:
            seen = 0
        if seen == 0:
            return {}
        if self._adapter is None:
            return {"batches": seen}
        source, sharding = self._adapter.data.source, self._adapter.sharding
        batches = seen - self._pass_batches
        return {
            "epoch": self._pass_epoch,
            "place": source.place_after(sharding, batches, self._pass_place),
        }

    def start_at(
        self, batch: int, state: dict[str, int], before_first_step: Callable[[Any], None]
    ) -> None:
        """Let the next epoch start in its middle.

        Args:
            batch: how many of its batches were done, with as many ranks as there were.
            state: what `state` returned.
            before_first_step: called with the type specification of a batch, when it is known
                and before the first step.
        """
        self._start = _Start(batch, state, before_first_step)

    def start_after(self, batches: int) -> None:
        """Let the next epoch, which begins a pass over the data, start after some of its batches.

        Args:
            batches: how many, of as many ranks as there are now.
        """
        if batches:
            self._start = _Start(batches)

    def follow(self, iterator: Any, steps: Iterator[Any]) -> Iterator[Any]:
        """The steps of an epoch, as Keras's epoch iterator hands them out."""
        start, self._start = self._start, None
        self._iterator = iterator
        self.resumed = start is not None
        if start is not None:
            yield from self._from(start, iterator, steps)
            return
        epoch = self._epoch  # once it is read, that of the next pass
        for step in steps:
            if iterator._steps_seen == iterator.steps_per_execution:
                self._new_pass(epoch, place=0, batches=0)
            yield step

    def _from(self, start: _Start, iterator: Any, steps: Iterator[Any]) -> Iterator[Any]:
        if start.state is None:
            # A step begins with its first batch: what a step has done in part is done again.
            done = start.batch - start.batch % iterator.steps_per_execution
            start = _Start(done, self._state_after(done))
        state = start.state or {}
        batches = self._batches_before(state)
        first = batches if iterator.steps_per_epoch is None else start.batch
        every_batch = iterator._distributed_dataset
        rest = self._rest(iterator, state)
        iterator._distributed_dataset = self._distributed(iterator, rest)
        start.before_first_step(rest.element_spec)
        for number, step in enumerate(steps):
            if number == 0:
                # Keras has taken its iterator over the data, and counts from 0.
                iterator._distributed_dataset = every_batch
                iterator._steps_seen += batches - first
            if step[1] >= first:
                yield step

    def _state_after(self, batches: int) -> dict[str, int]:
        """What `state` would return after some batches of a pass that begins now."""
        if self._adapter is None:
            return {"batches": batches}
        place = self._adapter.data.source.place_after(self._adapter.sharding, batches)
        return {"epoch": self._adapter.data.epoch, "place": place}

    def _batches_before(self, state: dict[str, int]) -> int:
        """How many batches of all ranks, as many as there are now, come before the position."""
        if self._adapter is None:
            return state.get("batches", 0)
        place = state.get("place", 0)
        source, sharding = self._adapter.data.source, self._adapter.sharding
        count, rest = source.num_batches(sharding), source.num_batches(sharding, place)
        if count is None or rest is None:
            return place // source.place_after(sharding, 1)
        return count - rest

    def _rest(self, iterator: Any, state: dict[str, int]) -> tf.data.Dataset:
        if self._adapter is None:
            dataset = iterator._distributed_dataset
            if not isinstance(dataset, tf.data.Dataset):  # tf.distribute has divided it
                dataset = iterator.data_adapter.get_tf_dataset()
            return dataset.skip(state.get("batches", 0))
        if state:
            self._adapter.data.set_epoch(state["epoch"])
        place = state.get("place", 0)
        self._new_pass(self._epoch, place=place, batches=self._batches_before(state))
        return self._adapter.dataset_from(place)

    def _distributed(self, iterator: Any, rest: tf.data.Dataset) -> Any:
        read = rest if self._adapter is None else self._adapter.read_by_keras(rest)
        if isinstance(read, tf.distribute.DistributedDataset):
            return read
        return iterator._distribute_strategy.experimental_distribute_dataset(read)

    @property
    def _epoch(self) -> int:
        return 0 if self._adapter is None else self._adapter.data.epoch

    def _new_pass(self, epoch: int, *, place: int, batches: int) -> None:
        self._pass_epoch, self._pass_place, self._pass_batches = epoch, place, batches
