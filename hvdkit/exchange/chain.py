"""What happens to gradients around an exchange, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import (
    ProcessSet,
    global_process_set,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.engine.elastic import is_elastic, of_this_world, world_number
from hvdkit.engine.local_replicas import local_replicas
from hvdkit.exchange.abilities import Divides, EveryMicroStep, Remembers
from hvdkit.exchange.base import Exchange, leaves_weights
from hvdkit.exchange.gradient import Gradient, scaled, squared
from hvdkit.exchange.sparse import combine_duplicates
from hvdkit.exchange.suspension import is_suspended
from hvdkit.exchange.tensor_partial import summed_over_tensor_group
from hvdkit.exchange.tracked import Shard
from hvdkit.mesh.layout import is_sharded
from hvdkit.mesh.mesh import Mesh
from hvdkit.mesh.variable import variable_key
from hvdkit.watch.step_times import step_times


class Chain:
    """From a rank's gradients to those that it applies; one for each distributed optimizer.

    Sparse gradients get each index once, or become dense; ranks compare what they exchange; parts
    of a tensor group are summed; gradients of local variables stay on their rank; and the exchange
    gets the others.

    The first call compares the gradients' shapes and types between ranks, so that ranks with
    different models get an error instead of waiting for each other; and the first after the ranks
    of an elastic job have changed.

    Args:
        exchange: how the ranks stay together.
        mesh: where the ranks hold parts of the model.
        sparse_as_dense: let `tf.IndexedSlices` become dense tensors first.
        scale_local_gradients: divide the gradients of local variables by the number of ranks.
        seen: what has been compared between ranks already.
    """

    def __init__(
        self,
        exchange: Exchange,
        mesh: Mesh | None = None,
        sparse_as_dense: bool = False,
        scale_local_gradients: bool = True,
        *,
        seen: set[tuple[str, ...]] | None = None,
    ) -> None:
        _require_replicas(exchange, mesh)
        self.exchange = exchange
        self.mesh = mesh
        self._sparse_as_dense = sparse_as_dense
        self._scale_local_gradients = scale_local_gradients
        self._local: set[int] = set()
        self._seen: set[tuple[str, ...]] = set() if seen is None else seen

    def register_local(self, variable: Any) -> None:
        """Leave `variable` to each rank."""
        self._local.add(variable_key(variable))

    def is_local(self, variable: Any) -> bool:
        """Whether `variable` was registered as local."""
        return variable_key(variable) in self._local

    def shared(self, variables: Sequence[Any]) -> list[Any]:
        """Those of some variables that are not local."""
        return [variable for variable in variables if not self.is_local(variable)]

    def shards(self, variables: Sequence[Any]) -> list[Shard | None]:
        """What this rank owns of each variable; None where every rank owns all of it."""
        found: list[Shard | None] = [None] * len(variables)
        if isinstance(self.exchange, Divides):
            shared = self.shared(variables)
            of_shared = dict(
                zip(map(variable_key, shared), self.exchange.shards(shared), strict=True)
            )
            found = [of_shared.get(variable_key(variable)) for variable in variables]
        return found

    @property
    def every_micro_step(self) -> bool:
        """Whether gradients are exchanged before they are accumulated."""
        return isinstance(self.exchange, EveryMicroStep) and self.exchange.every_micro_step

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that stay together."""
        return self.exchange.ranks

    @property
    def active(self) -> bool:
        """Whether this rank has another one to stay with, or may have when a graph runs."""
        require_initialized("reducing gradients")
        if is_suspended():
            return False
        if self._outlives_its_ranks and not self.ranks.process_set_id:
            return True
        # One that works on weights is needed by a single rank, too: it may update shards.
        has_work = topology.process_set_size(self.ranks) > 1 or not leaves_weights(self.exchange)
        return has_work and topology.in_process_set(self.ranks)

    @property
    def _outlives_its_ranks(self) -> bool:
        """Whether what is made now may run with other ranks: a graph of an elastic job.

        Ranks that join make it later than the others, so there is nothing to compare meanwhile.
        """
        return is_elastic() and not tf.executing_eagerly()

    @property
    def agreed_by(self) -> ProcessSet | None:
        """The ranks that apply different gradients, once exchanged; None if all have the same."""
        if self.mesh is not None and self.mesh.is_model_parallel:
            return global_process_set
        return self.exchange.agreed_by()

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """Exchange gradients.

        Args:
            gradients: one for each variable: a tensor, `tf.IndexedSlices`, or None.
            variables: the variables (`keras.Variable` or `tf.Variable`), in the same order.
            name: names the operations on the timeline; the same on all ranks.

        Returns:
            The gradients in the same order; None stays None.

        Raises:
            RankMismatchError: on every rank, when shapes, types or exchanges differ between ranks.
        """
        step_times.gradients_are_there(gradients)
        with step_times.beside_backward():
            exchanged = self._exchanged(gradients, variables, name)
        step_times.gradients_are_exchanged(
            exchanged, lambda: self._squared_norm(exchanged, variables)
        )
        return exchanged

    def _exchanged(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        prepared = [self._prepared(gradient) for gradient in gradients]
        if not self._outlives_its_ranks and self.active:
            self._compare_once(prepared, variables)
        prepared = summed_over_tensor_group(prepared, variables, name)
        if self._outlives_its_ranks and self.ranks.process_set_id:
            prepared = of_this_world(prepared)
        if not self.active:
            return prepared
        local = [self.is_local(variable) for variable in variables]
        shared = [None if own else g for g, own in zip(prepared, local, strict=True)]
        exchanged = self.exchange.gradients(shared, variables, name)
        return [self._of_local(prepared[i]) if own else exchanged[i] for i, own in enumerate(local)]

    def _squared_norm(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> tf.Tensor:
        """This rank's share of the squared norm: all ranks' add up to that of the whole model."""
        copies = tf.cast(topology.ranks_when_run(self.ranks) if self.active else 1, tf.float32)
        tensor = 1 if self.mesh is None else self.mesh.tensor
        squares = [tf.constant(0.0)]
        for gradient, variable, shard in zip(
            gradients, variables, self.shards(variables), strict=True
        ):
            if gradient is not None:
                alike = (1.0 if shard is not None else copies) * (
                    1 if is_sharded(variable) else tensor
                )
                squares.append(squared(gradient) / alike)
        return tf.add_n(squares)

    def remember(self, applied: Callable[[], tf.Tensor]) -> None:
        """Let what the exchange keeps change with the step that `gradients` began.

        Args:
            applied: makes a boolean, alike on all ranks: whether what was exchanged is finite.
        """
        if isinstance(self.exchange, Remembers) and self.active:
            self.exchange.remember(applied)

    def _prepared(self, gradient: Gradient) -> Gradient:
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        if self._sparse_as_dense:
            return tf.convert_to_tensor(gradient)
        return combine_duplicates(gradient)

    def _of_local(self, gradient: Gradient) -> Gradient:
        if gradient is None or not self._scale_local_gradients:
            return gradient
        ranks = topology.ranks_when_run(self.ranks)
        return scaled(gradient, 1.0 / tf.cast(ranks, tf.float32))

    def _compare_once(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> None:
        kind = type(self.exchange).__name__
        described = tuple(map(self._described, gradients, variables))
        ranks = topology.process_set_ranks(self.ranks)
        signature = (f"{kind} of {ranks} in world {world_number()}", *described)
        if signature in self._seen:
            return
        # What a rank gives is the sum over its devices, of a mean over all of them.
        devices = f"devices of a rank={local_replicas()}"
        settings = [kind, *_settings(self.exchange.get_config()), devices]
        require_same("the exchange and its settings", settings, self.ranks)
        require_same("the gradients of the trainable variables", described, self.ranks)
        self._seen.add(signature)

    def _described(self, gradient: Gradient, variable: Any) -> str:
        if self.is_local(variable):  # nothing has to agree
            return "local"
        if gradient is None:
            return "no gradient"
        kind = "sparse " if isinstance(gradient, tf.IndexedSlices) else ""
        return f"{kind}{dtype_and_shape(gradient.dtype, variable.shape)}"


def _require_replicas(exchange: Exchange, mesh: Mesh | None) -> None:
    """Refuse ranks that hold other shards of the model: an exchange made before the mesh was set.

    Raises:
        ValueError: it says what to do.
    """
    if mesh is None or not mesh.is_model_parallel:
        return
    replicas = topology.process_set_ranks(mesh.data_set)
    if topology.in_process_set(exchange.ranks) and not (
        set(topology.process_set_ranks(exchange.ranks)) <= set(replicas)
    ):
        raise ValueError(
            f"{type(exchange).__name__} is for ranks that hold other shards of the model than "
            f"rank {topology.rank()}, whose replicas are ranks {replicas}: make the exchange after "
            "hvd.set_mesh(...)."
        )


def _settings(config: Any, path: str = "") -> list[str]:
    """The numbers and texts of a config.

    Not its lists: ranks, and names of variables, which differ where a rank has made more layers.
    And not devices, which are each rank's own.
    """
    if isinstance(config, dict):
        return [
            line
            for key in sorted(config)
            if not key.startswith("device")
            for line in _settings(config[key], f"{path}.{key}" if path else key)
        ]
    return [] if isinstance(config, (list, tuple)) else [f"{path}={config}"]
