"""`fit`, `evaluate` and `predict` of a model on several local devices (`MirroredStrategy`)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from hvdkit.data.adapter import ShardedAdapter
from hvdkit.data.over_replicas import parts_on_replicas
from hvdkit.engine import RankMismatchError, several_ranks
from hvdkit.engine.local_replicas import scope_of
from hvdkit.optimizers.composition import chains
from hvdkit.optimizers.on_local_replicas import require_possible
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.features import Call, Feature

_BUILD = "_maybe_symbolic_build"


class RefusedOnReplicas(Feature):
    """What can't be right on several local devices of several ranks is refused, by name."""

    def before(self, call: Call) -> None:
        """Refuse it.

        Raises:
            ValueError, NotImplementedError: on every rank, with the way out.
        """
        model = call.model
        strategy = model.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or not several_ranks():
            return
        if model.steps_per_execution > 1:
            raise NotImplementedError(
                f"steps_per_execution={model.steps_per_execution} does not go with several local "
                "devices (MirroredStrategy), in Keras neither: leave it out of compile(...), or "
                "use one rank for each device (horovodrun, mpirun)."
            )
        if not call.trains:
            return
        distributed = [one.optimizer for one in optimizers_of(model) if chains(one.optimizer)]
        for optimizer in distributed:
            require_possible(optimizer, strategy)
        if distributed and model.jit_compile:
            raise ValueError(
                "jit_compile=True does not go with several local devices (MirroredStrategy) in a "
                "job of several ranks, since Horovod's operations do not compile under XLA: leave "
                "it out of compile(...), or use one rank for each device (horovodrun, mpirun)."
            )


def require_same_devices(everyone: Mapping[int, int]) -> None:
    """Refuse ranks of which each would count another number of rows.

    Args:
        everyone: how many local devices each rank trains on.

    Raises:
        RankMismatchError: on every rank.
    """
    if len(set(everyone.values())) > 1:
        counts = ", ".join(f"{count} on rank {rank}" for rank, count in everyone.items())
        raise RankMismatchError(
            f"the ranks train on different numbers of local devices: {counts}. Give each as many, "
            "with tf.config.set_visible_devices."
        )


class BuiltForParts(Feature):
    """A model is built for the part of a batch that a local device gets.

    Keras would build it for the mean of the parts over the devices, which may have other rows each.
    """

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """While inside, the model has a way of its own to be built."""
        model = call.model
        if model.distribute_strategy.num_replicas_in_sync == 1 or not several_ranks():
            yield
            return
        own, before = vars(model), vars(model).get(_BUILD)  # that of a `fit` that validates
        own[_BUILD] = functools.partial(_build, model)
        try:
            yield
        finally:
            del own[_BUILD]
            if before is not None:
                own[_BUILD] = before


def _build(model: Any, iterator: Any) -> None:
    adapter = iterator.data_adapter
    if isinstance(adapter, ShardedAdapter):
        batch = adapter.batch_spec
    else:
        batches = next(batches for _, _, batches in iterator)
        batch = parts_on_replicas(next(batches), model.distribute_strategy)[0]
    with scope_of(model.distribute_strategy):
        model._symbolic_build(data_batch=batch)
