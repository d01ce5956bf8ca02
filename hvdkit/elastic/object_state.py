"""What a training loop goes on from after ranks have died or joined."""

from __future__ import annotations

import copy
import queue
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from hvdkit.engine import Max, allgather_object, broadcast_object, ops, topology
from hvdkit.engine.elastic import HostsUpdatedInterrupt, HostUpdateResult, is_elastic


class ObjectState:
    """Values of a training loop, such as the numbers of epoch and batch.

    They are attributes. `commit` keeps a copy in memory; after a failure `run` puts the last copy
    back, and gives every rank the values of the rank that has committed most, the lowest one of
    several: never those of a rank that has just joined.

    Args:
        **attributes: names and first values; values can be copied and pickled.

    Example:
        >>> state = hvd.elastic.ObjectState(step=0)
        >>> state.step += 1
        >>> state.commit()
    """

    def __init__(self, **attributes: Any) -> None:
        self._names = tuple(attributes)
        self._commits = 0
        self._ranks = 0
        self._reset_callbacks: list[Callable[[], None]] = []
        self._host_updates: queue.SimpleQueue[HostUpdateResult] = queue.SimpleQueue()
        self._set(attributes)
        self._saved = copy.deepcopy(attributes)

    @property
    def ranks(self) -> int:
        """Number of ranks at the last commit, 0 before the first: those that counted batches."""
        return self._ranks

    def register_reset_callbacks(self, callbacks: Iterable[Callable[[], None]]) -> None:
        """Call functions each time that ranks have died or joined, before the state is synced.

        Args:
            callbacks: functions without arguments, for example one that sets the learning rate
                for the new `hvd.size()`. They run on the ranks that were there before.
        """
        self._reset_callbacks.extend(callbacks)

    def on_reset(self) -> None:
        """Called by `run` when the ranks have changed."""
        self.reset()
        for callback in self._reset_callbacks:
            callback()

    def on_hosts_updated(self, timestamp: int, update_res: HostUpdateResult) -> None:
        """Called from another thread when there are new hosts, or fewer."""
        del timestamp  # whole seconds: two updates can have the same
        self._host_updates.put(update_res)

    def commit(self) -> None:
        """Save the state, then see whether ranks should join or leave; all ranks call it.

        Raises:
            HostsUpdatedInterrupt: they should; `run` takes care of it.
        """
        self.save()
        self.check_host_updates()

    def check_host_updates(self) -> None:
        """See whether ranks should join or leave, without saving; all ranks call it.

        Raises:
            HostsUpdatedInterrupt: they should; `run` takes care of it.
        """
        if not is_elastic():
            return
        # News stay in the queue while the ranks find each other: a host that comes up meanwhile
        # would otherwise never be heard of again.
        update = HostUpdateResult.no_update
        while not self._host_updates.empty():
            update |= self._host_updates.get()
        own = tf.constant([bool(update & HostUpdateResult.added), bool(update)], tf.int32)
        added, any_update = ops.allreduce(own, Max, name="hvdkit.host_updates").numpy()
        if any_update:
            raise HostsUpdatedInterrupt(skip_sync=not added)

    def save(self) -> None:
        """Keep a copy of the state in memory."""
        self._saved = copy.deepcopy(self._values())
        self._commits += 1
        self._ranks = topology.size()

    def restore(self) -> None:
        """Put the last copy back."""
        self._set(copy.deepcopy(self._saved))

    def sync(self) -> None:
        """Give all ranks the state of the one that has committed most, and save it."""
        commits = allgather_object(self._commits, name="hvdkit.elastic.commits")
        self.receive(commits.index(max(commits)))
        counted_by = self._ranks
        self.save()
        self._ranks = counted_by

    def receive(self, root_rank: int) -> None:
        """Take the state of a rank; all ranks call it. To be extended by subclasses.

        Args:
            root_rank: the rank that sends.
        """
        own = (self._commits, self._ranks, self._values())
        self._commits, self._ranks, values = broadcast_object(
            own, root_rank, name="hvdkit.elastic.state"
        )
        self._set(values)

    def reset(self) -> None:
        """Forget what depends on the ranks; called before `sync`. To be extended by subclasses."""

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)
