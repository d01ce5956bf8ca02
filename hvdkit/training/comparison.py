"""What the ranks of a `fit` are going to read, compared before the first step and after epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.adapter import ShardedAdapter
from hvdkit.engine import (
    ProcessSet,
    RankMismatchError,
    Sum,
    allgather_object,
    is_initialized,
    logger,
    ops,
    several_ranks,
    topology,
)
from hvdkit.engine.run_settings import ranks_are_compared
from hvdkit.mesh.mesh import current_mesh, replica_of
from hvdkit.optimizers.composition import chains
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.even_steps import (
    may_differ_later,
    plan_of,
    problem_with,
    problem_with_epoch,
)
from hvdkit.training.features import Call, Feature
from hvdkit.training.same_rows import (
    Seen,
    advice,
    problem_in_groups,
    ranks_with_same_rows,
    seen_of,
    without_drawn,
)

_said: set[str] = set()

_current: ContextVar[FitComparison | None] = ContextVar("hvdkit_fit_comparison", default=None)


def current_comparison() -> FitComparison | None:
    """That of the `fit` that runs; None outside of `fit`, and in its validation."""
    return _current.get()


class SameSteps(Feature):
    """`fit` checks that the ranks make equally many steps, and says where they read the same."""

    def __init__(self) -> None:
        self._comparison: FitComparison | None = None

    def before(self, call: Call) -> None:
        """Count the steps, before callbacks that exchange something."""
        if not call.trains:
            return
        self._comparison = FitComparison(call.model, call.arguments)
        if several_ranks():
            call.add_callback(CountSteps(self._comparison), first=True)

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Inside, `current_comparison` is this one."""
        token = _current.set(self._comparison)
        try:
            yield
        finally:
            _current.reset(token)


class FitComparison:
    """Whether the ranks of one `fit` make equally many steps, on different rows.

    Args:
        model: the model.
        arguments: of `fit`, as Keras gets them.
    """

    def __init__(self, model: Any, arguments: Mapping[str, Any]) -> None:
        self._model = model
        self._arguments = arguments
        self._ranks: ProcessSet | None = None
        self._compared = False
        self._has_read = False
        self._joins = False
        self._epoch = 0
        self._steps = 0
        self._iterator: Any = None

    def follow(self, iterator: Any, steps: Iterator[Any]) -> Iterator[Any]:
        """The steps of an epoch; before the first one the ranks are compared.

        Args:
            iterator: Keras's epoch iterator.
            steps: what it hands out.

        Raises:
            RankMismatchError: on every rank: they have different numbers of batches.
        """
        if not self._compared:
            self._compared = True
            self._say_what_is_short(iterator)
            self._ranks = ranks_of_steps(self._model)
            if self._ranks is not None:
                self._compare(iterator, self._ranks)
        self._epoch, self._steps = self._epoch + 1, 0
        self._iterator = iterator
        yield from steps

    def count_step(self) -> None:
        """A step is done; after the first one it is known what the data held.

        Raises:
            RankMismatchError: on every rank: one has no data at all, or they read different data.
        """
        self._steps += self._iterator.steps_per_execution
        if self._has_read:
            return
        self._has_read = True
        if self._joins and self._ranks is not None:
            # A sum, which a rank that has joined takes part in, unlike all that follows.
            made = ops.allreduce(
                tf.constant(1), Sum, name="hvdkit.first_step", process_set=self._ranks
            )
            if int(made) < topology.process_set_size(self._ranks):
                self.end_epoch()
        if isinstance(self._iterator.data_adapter, ShardedAdapter):
            self._iterator.data_adapter.data.compare_first_batch()

    def end_epoch(self) -> None:
        """Compare the steps that the ranks have made, where that was not known before.

        Raises:
            RankMismatchError: on every rank: they are different.
        """
        if not self._joins or self._ranks is None:
            return
        ops.join()
        steps = self._gathered("hvdkit.epoch_steps", self._steps, self._ranks)
        if problem := problem_with_epoch(self._epoch, steps):
            raise RankMismatchError(problem)

    def _compare(self, iterator: Any, ranks: ProcessSet) -> None:
        mesh = current_mesh()
        model_parallel = mesh is not None and mesh.is_model_parallel
        looks = ranks_are_compared() and (model_parallel or "rows" not in _said)
        adapter = iterator.data_adapter
        seen = seen_of(adapter, model_parallel) if looks else None
        plan = plan_of(iterator, self._arguments, self._validation())
        everyone = self._gathered("hvdkit.fit_data", (plan, seen), ranks)
        plans = {rank: plan for rank, (plan, _) in everyone.items()}
        # Some ranks may have been told in a training of fewer ranks.
        all_look = all(seen is not None for _, seen in everyone.values())
        all_seen = {rank: seen for rank, (_, seen) in everyone.items()} if all_look else {}
        problem = problem_with(plans)
        if problem is None and mesh is not None:  # the stages of a pipeline compare all of a batch
            problem = problem_in_groups(all_seen, mesh.tensor)
        if problem:
            raise RankMismatchError(problem)
        # Join is for all ranks, and a sharded model's messages don't know it.
        self._joins = ranks.process_set_id == 0 and not model_parallel and may_differ_later(plans)
        if all_seen and "rows" not in _said:
            self._say_same_rows(all_seen, adapter, ranks)

    def _say_same_rows(self, seen: dict[int, Seen], adapter: Any, ranks: ProcessSet) -> None:
        # Ranks of one replica of the model need the same rows; hvd.shard divides those of others.
        divided = ShardedAdapter.__name__
        replicas = {replica_of(r): r for r in reversed(seen) if seen[r].kind != divided}
        first = {rank: seen[rank] for rank in sorted(replicas.values())}
        groups = ranks_with_same_rows(first)
        kinds = {one.kind for one in seen.values()}
        if not groups and kinds == {"PyDatasetAdapter"}:
            again = self._gathered("hvdkit.fit_data_again", seen_of(adapter, False), ranks)
            groups = ranks_with_same_rows(without_drawn(first, again))
        if groups:
            _said.add("rows")
            _say(advice(seen[groups[0][0]].kind, groups[0], len(groups[0])), ranks)

    def _say_what_is_short(self, iterator: Any) -> None:
        adapter, asked = iterator.data_adapter, iterator.steps_per_epoch
        if not isinstance(adapter, ShardedAdapter) or not asked or "short" in _said:
            return
        there = adapter.num_batches
        if there is not None and there < asked:
            _said.add("short")
            if topology.rank() == 0:
                logger.warning(
                    "hvdkit: fit(steps_per_epoch=%d), but the data from hvd.shard has %d batches "
                    "on each of the %d ranks: an epoch ends after them. Leave steps_per_epoch out.",
                    asked,
                    there,
                    adapter.sharding.size,
                )

    def _validation(self) -> str:
        if not isinstance(self._arguments["validation_data"], ShardedAdapter):
            return "none on data from hvd.shard"
        names = ("validation_steps", "validation_freq")
        return ", ".join(f"{name}={self._arguments[name]}" for name in names)

    def _gathered(self, name: str, value: Any, ranks: ProcessSet) -> dict[int, Any]:
        everyone = allgather_object(value, name=name, process_set=ranks)
        return dict(zip(topology.process_set_ranks(ranks), everyone, strict=True))


class CountSteps(keras.callbacks.Callback):
    """Count the steps of a `fit`; it comes before callbacks that exchange something.

    Args:
        comparison: that of the `fit`.
    """

    def __init__(self, comparison: FitComparison) -> None:
        super().__init__()
        self._comparison = comparison

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """One more."""
        self._comparison.count_step()


def _say(text: str, ranks: ProcessSet) -> None:
    if topology.rank() == topology.process_set_ranks(ranks)[0]:
        logger.warning(text)


def ranks_of_steps(model: Any) -> ProcessSet | None:
    """The ranks that make each step of a model together; None if this rank trains alone."""
    if not is_initialized() or topology.size() == 1:
        return None
    for chain in [chain for one in optimizers_of(model) for chain in chains(one.optimizer)]:
        if chain.agreed_by is not None:
            return chain.agreed_by
        if chain.active:
            return chain.ranks
    return None
