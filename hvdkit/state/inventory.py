"""Which variables must be the same on all ranks.

They are the trainable and the frozen weights and the optimizer's variables. Three kinds differ by
design: what is registered as local, gradients that a rank has accumulated and not yet reduced, and
the states of seed generators. Weights that a layer makes with `trainable=False`, such as the
moving statistics of BatchNormalization, follow each rank's own rows until they are averaged; or
they are each rank's own for good, where the layer says so (`hvdkit.state.own`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hvdkit.engine import ProcessSet, global_process_set, topology
from hvdkit.exchange.buckets import variable_key
from hvdkit.mesh.layout import is_sharded
from hvdkit.optimizers.composition import chains, leaves, mesh_of
from hvdkit.optimizers.mixins import Distributed
from hvdkit.state.broadcast import can_be_sent
from hvdkit.state.own import is_own, updates_itself
from hvdkit.state.reachable import optimizers_of


def is_seed_state(variable: Any) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return getattr(variable, "name", "") == "seed_generator_state"


def is_local(optimizers: Iterable[Any], variable: Any) -> bool:
    """Whether a variable was registered with `register_local_var`, with any of some optimizers."""
    return any(
        leaf.is_local_var(variable)
        for optimizer in optimizers
        for leaf in leaves(optimizer)
        if isinstance(leaf, Distributed)
    )


def ranks_of_optimizer(optimizer: Any) -> ProcessSet | None:
    """The ranks that an optimizer reduces over; None if it is not distributed."""
    found = chains(optimizer)
    return found[0].ranks if found else None


@dataclass(frozen=True)
class Alike:
    """Ranks that hold the same variables.

    Attributes:
        ranks: the ranks.
        whole_only: whether they hold different parts of variables that are divided.
    """

    ranks: ProcessSet
    whole_only: bool = False

    @property
    def compares(self) -> bool:
        """Whether this rank is one of several."""
        member = topology.in_process_set(self.ranks)
        return member and topology.process_set_size(self.ranks) > 1

    @property
    def first(self) -> int:
        """The first of the ranks."""
        return topology.process_set_ranks(self.ranks)[0]

    def among(self, variables: Iterable[Any]) -> list[Any]:
        """Those of some variables that these ranks hold alike."""
        return [v for v in variables if not (self.whole_only and is_sharded(v))]


def alike(optimizer: Any) -> list[Alike]:
    """The groups of ranks, this one among them, that hold the same variables; the smallest first.

    Without a mesh there is one: the ranks that the optimizer reduces over, or all.
    """
    found = chains(optimizer)
    if not found:
        return [Alike(global_process_set)]
    mesh = mesh_of(optimizer)
    replicas = Alike(found[0].ranks)
    return [replicas] if mesh is None else [Alike(mesh.tensor_set, whole_only=True), replicas]


def moving_statistics(model: Any) -> list[Any]:
    """Float weights that layers update by themselves: those made with `trainable=False`.

    Not those that are each rank's own.
    """
    optimizers = [one.optimizer for one in optimizers_of(model)]
    found: dict[int, Any] = {}
    for layer in model._flatten_layers():
        trained = layer._trainable_variables
        if not updates_itself(layer):
            continue
        if trained and all(is_local(optimizers, variable) for variable in trained):
            continue
        for variable in layer._non_trainable_variables:
            if not tf.as_dtype(variable.dtype).is_floating or is_own(layer, variable):
                continue
            if not is_local(optimizers, variable):
                found[id(variable)] = variable
    return list(found.values())


def agreeing_variables(model: Any, local: Collection[int] = ()) -> list[Any]:
    """The variables of a model and its optimizers that must be the same on all ranks.

    Args:
        model: a model; an optimizer's variables count once it is built.
        local: keys (`variable_key`) of more variables to leave out.
    """
    optimizers = [one.optimizer for one in optimizers_of(model)]
    by_themselves = {
        id(variable)
        for layer in model._flatten_layers()
        if updates_itself(layer)
        for variable in layer._non_trainable_variables
    }
    shared: list[Any] = []
    left_out: list[Any] = []
    for variable in model.weights:
        if id(variable) in by_themselves or not can_be_sent(variable):
            continue
        kept = variable_key(variable) in local or is_local(optimizers, variable)
        (left_out if kept else shared).append(variable)
    found = [*shared]
    for optimizer in optimizers:
        found += _of_optimizer(optimizer, shared, left_out)
    return list({variable_key(variable): variable for variable in found}.values())


def _of_optimizer(optimizer: Any, shared: Sequence[Any], local: Sequence[Any]) -> Iterator[Any]:
    accumulators = {
        id(variable)
        for leaf in leaves(optimizer)
        for variable in getattr(leaf, "_accumulated_gradients", None) or []
    }
    prefixes = [(_slot_prefix(variable), False) for variable in shared]
    prefixes += [(_slot_prefix(variable), True) for variable in local]
    for variable in optimizer.variables:
        if id(variable) in accumulators or not can_be_sent(variable):
            continue
        if not (local and _is_slot_of_local(variable.name, prefixes)):
            yield variable


def _slot_prefix(variable: Any) -> str:
    """How Keras begins the names of the optimizer's variables that belong to a weight."""
    return f"{variable.path.replace('/', '_')}_"


def _is_slot_of_local(name: str, prefixes: list[tuple[str, bool]]) -> bool:
    matching = [(len(prefix), is_local) for prefix, is_local in prefixes if name.startswith(prefix)]
    return max(matching, default=(0, False))[1]
