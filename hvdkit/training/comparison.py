"""What the ranks of a `fit` are going to read, compared before the first step and after epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras.src.backend.tensorflow.trainer import TFEpochIterator

from hvdkit.data.sharded import ShardedAdapter
from hvdkit.engine import (
    ProcessSet,
    RankMismatchError,
    allgather_object,
    is_initialized,
    logger,
    ops,
    topology,
)
from hvdkit.engine.agreement import ranks_are_compared
from hvdkit.mesh.mesh import replica_of
from hvdkit.optimizers.mixins import reductions
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.even_steps import (
    may_differ_later,
    plan_of,
    problem_with,
    problem_with_epoch,
)
from hvdkit.training.same_rows import (
    Seen,
    advice,
    ranks_with_same_rows,
    seen_of,
    without_drawn,
)

_said: set[str] = set()


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
        self._joins = False
        self._epoch = 0
        self._steps = 0

    def follow(self, iterator: Any, steps: Iterator[Any]) -> Iterator[Any]:
        """The steps of an epoch, counted; before the first one the ranks are compared.

        Args:
            iterator: Keras's epoch iterator.
            steps: what it hands out.

        Raises:
            RankMismatchError: on every rank: they have different numbers of batches.
        """
        if not self._compared:
            self._compared = True
            self._say_what_is_short(iterator)
            self._ranks = _ranks_of(self._model)
            if self._ranks is not None:
                self._compare(iterator, self._ranks)
        self._epoch, self._steps = self._epoch + 1, 0
        for step in steps:
            yield step
            self._steps += iterator.steps_per_execution

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
        looks = ranks_are_compared() and "rows" not in _said
        adapter = iterator.data_adapter
        seen = seen_of(adapter) if looks else Seen(type(adapter).__name__, [])
        plan = plan_of(iterator, self._arguments, self._validation())
        everyone = self._gathered("hvdkit.fit_data", (plan, seen), ranks)
        plans = {rank: plan for rank, (plan, _) in everyone.items()}
        if problem := problem_with(plans):
            raise RankMismatchError(problem)
        # Join is for all ranks, and a pipeline's messages don't know it.
        whole_job = ranks.process_set_id == 0 and replica_of(1) == 1
        self._joins = whole_job and may_differ_later(plans)
        if looks:
            self._say_same_rows(
                {rank: seen for rank, (_, seen) in everyone.items()}, adapter, ranks
            )

    def _say_same_rows(self, seen: dict[int, Seen], adapter: Any, ranks: ProcessSet) -> None:
        # Ranks of one replica of the model need the same rows.
        replicas = {replica_of(rank): rank for rank in reversed(seen)}
        first = {rank: seen[rank] for rank in sorted(replicas.values())}
        groups = ranks_with_same_rows(first)
        kinds = {one.kind for one in seen.values()}
        if not groups and kinds == {"PyDatasetAdapter"}:
            again = self._gathered("hvdkit.fit_data_again", seen_of(adapter), ranks)
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
                    adapter.part.size,
                )

    def _validation(self) -> tuple[Any, ...] | None:
        data = self._arguments["validation_data"]
        if not isinstance(data, ShardedAdapter):
            return None
        return self._arguments["validation_steps"], self._arguments["validation_freq"]

    def _gathered(self, name: str, value: Any, ranks: ProcessSet) -> dict[int, Any]:
        everyone = allgather_object(value, name=name, process_set=ranks)
        return dict(zip(topology.process_set_ranks(ranks), everyone, strict=True))


def _say(text: str, ranks: ProcessSet) -> None:
    if topology.rank() == topology.process_set_ranks(ranks)[0]:
        logger.warning(text)


def _ranks_of(model: Any) -> ProcessSet | None:
    """The ranks that make each step of a model together; None if this rank trains alone."""
    if not is_initialized() or topology.size() == 1:
        return None
    found = [r for one in optimizers_of(model) for r in reductions(one.optimizer)]
    for reduction in found:
        if reduction.judges is not None:
            return reduction.judges
        if reduction.active:
            return reduction.options.process_set
    return None


def interrupted_warning(original: Callable[..., Any], iterator: Any) -> None:
    """Keras says it at the end of all data whose length it did not know."""
    if not isinstance(iterator.data_adapter, ShardedAdapter) or iterator.steps_per_epoch:
        original(iterator)


HOOKS = ((TFEpochIterator, "_interrupted_warning", interrupted_warning),)
"""Of which class which method is replaced by which function here."""
