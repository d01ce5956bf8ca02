"""`fit`, `evaluate` and `predict` of a model on several local devices (`MirroredStrategy`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hvdkit.data.over_replicas import parts_on_replicas
from hvdkit.data.sharded import ShardedAdapter
from hvdkit.engine import RankMismatchError, several_ranks
from hvdkit.engine.local_replicas import scope_of
from hvdkit.keras_internals import TensorFlowTrainer
from hvdkit.optimizers.composition import chains
from hvdkit.optimizers.on_local_replicas import require_possible
from hvdkit.patches import Patch
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.features import Call, Feature


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


def _symbolic_build(
    original: Callable[..., Any], model: Any, iterator: Any = None, data_batch: Any = None
) -> None:
    strategy = model.distribute_strategy
    if iterator is None or strategy.num_replicas_in_sync == 1 or not several_ranks():
        original(model, iterator=iterator, data_batch=data_batch)
        return
    # Keras would average a batch over the devices, whose parts may have other rows each.
    adapter = iterator.data_adapter
    if isinstance(adapter, ShardedAdapter):
        batch = adapter.batch_spec
    else:
        batches = next(batches for _, _, batches in iterator)
        batch = parts_on_replicas(next(batches), strategy)[0]
    with scope_of(strategy):
        model._symbolic_build(data_batch=batch)


BUILD_ON_REPLICAS = Patch(
    TensorFlowTrainer,
    "_maybe_symbolic_build",
    _symbolic_build,
    "on several local devices of several ranks, a model is built for parts of any rows",
)
