"""All ranks make the same number of steps in an epoch: each step needs all of them.

Where the numbers are known they are compared before the first step. Where they are not, the rank
that comes to the end of its data first joins (`hvd.join`): Horovod answers for it with zeros, so
the others come to their end, too, and the numbers are compared there. That costs one exchange an
epoch, and none in a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_REMEDY = (
    "Every step needs all ranks. hvd.shard(data, batch_size=...) gives each of them equally many "
    "batches; with data that you divide yourself, give all ranks equally many rows, or give fit a "
    "steps_per_epoch that all of them have data for"
)


@dataclass(frozen=True)
class PlannedSteps:
    """What a rank is going to do in a `fit`.

    Attributes:
        epochs: the number of the last epoch.
        steps_per_epoch: as `fit` got it.
        batches: of one pass over the data; None where that is not known.
        endless: whether the data has no end.
        validation: with data from `hvd.shard`, in words.
    """

    epochs: int
    steps_per_epoch: int | None
    batches: int | None
    endless: bool
    validation: str

    @property
    def is_certain(self) -> bool:
        """Whether the number of steps of each epoch is known."""
        if self.steps_per_epoch is None:
            return self.batches is not None
        return self.endless or (self.batches or 0) >= self.steps_per_epoch * self.epochs


def plan_of(iterator: Any, arguments: Mapping[str, Any], validation: str) -> PlannedSteps:
    """The plan of this rank.

    Args:
        iterator: Keras's epoch iterator.
        arguments: of `fit`.
        validation: see `PlannedSteps`.
    """
    dataset = iterator._distributed_dataset
    endless = isinstance(dataset, tf.data.Dataset) and (
        int(dataset.cardinality()) == int(tf.data.INFINITE_CARDINALITY)
    )
    return PlannedSteps(
        epochs=int(arguments["epochs"]),
        steps_per_epoch=iterator.steps_per_epoch,
        batches=iterator.data_adapter.num_batches,
        endless=endless,
        validation=validation,
    )


def problem_with(plans: Mapping[int, PlannedSteps]) -> str | None:
    """Why the ranks would not make the same number of steps, as far as that is known.

    Args:
        plans: of each rank.

    Returns:
        What differs between which ranks, and what to do; None where nothing does.
    """
    for name in ("epochs", "steps_per_epoch", "validation"):
        values = {rank: getattr(plan, name) for rank, plan in plans.items()}
        if len(set(values.values())) > 1:
            return (
                f"the ranks give fit different {name}: {by_rank(values)}. Every step needs all "
                "ranks: give fit the same on all of them."
            )
    plan = next(iter(plans.values()))
    if plan.steps_per_epoch is not None and all(each.is_certain for each in plans.values()):
        return None
    batches = {r: "no end" if each.endless else each.batches for r, each in plans.items()}
    unknown = None in batches.values()
    waits_for_ever = plan.steps_per_epoch is None and "no end" in batches.values()
    if len(set(batches.values())) == 1 or (unknown and not waits_for_ever):
        return None
    return f"the ranks have different numbers of batches: {by_rank(batches)}. {_REMEDY}."


def may_differ_later(plans: Mapping[int, PlannedSteps]) -> bool:
    """Whether only the end of an epoch shows how many steps each rank has made."""
    return any(plan.batches is None and not plan.endless for plan in plans.values())


def problem_with_epoch(epoch: int, steps: Mapping[int, int]) -> str | None:
    """What to say where ranks made other numbers of steps in an epoch.

    Args:
        epoch: its number, from 1.
        steps: of each rank.
    """
    if len(set(steps.values())) == 1:
        return None
    return (
        f"the ranks made different numbers of steps in epoch {epoch}: {by_rank(steps)}; those that "
        f"others had no data for are made with zeros in their place. {_REMEDY}."
    )


def by_rank(values: Mapping[int, Any]) -> str:
    """Values and the ranks that have them: "17 on rank 0, 16 on rank 1, 2"."""
    holders: dict[Any, list[int]] = {}
    for rank, value in values.items():
        holders.setdefault(value, []).append(rank)
    return ", ".join(
        f"{value} on rank {', '.join(map(str, ranks))}" for value, ranks in holders.items()
    )
