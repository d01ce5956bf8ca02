"""Clipping by norms of whole gradients, where each rank holds a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Sum, ops, raise_everywhere
from hvdkit.engine.elastic import is_elastic
from hvdkit.exchange.abilities import Divides, OutOfStep
from hvdkit.exchange.base import leaves_weights
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.gradient import Gradient, scaled, squared
from hvdkit.mesh.layout import is_sharded, layout_of
from hvdkit.mesh.variable import variable_key
from hvdkit.optimizers.composition import Attached


class ClippedOverRanks(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer that clips by norms of which ranks hold terms.

    It stands next to the Keras class: what it gets are the gradients of what this rank updates.
    """

    _hvd: Attached

    def _clip_gradients(self, grads: Sequence[Gradient]) -> Any:
        variables, chain = self._hvd.variables, self._hvd.chain
        if not (self.clipnorm or self.global_clipnorm):
            return super()._clip_gradients(grads)
        _require_known_shards(chain, variables)
        if not _has_terms(chain, variables):
            return super()._clip_gradients(grads)
        if self.clipnorm:
            return clip_by_norm(grads, variables, self.clipnorm, chain)
        return clip_by_global_norm(grads, variables, self.global_clipnorm, chain)


def clip_by_norm(
    gradients: Sequence[Gradient], variables: Sequence[Any], clipnorm: float, chain: Chain
) -> list[Gradient]:
    """Scale each gradient so that the norm of the whole variable's is at most `clipnorm`.

    Args:
        gradients: this rank's parts; a tensor, `tf.IndexedSlices`, or None for each variable.
        variables: what they belong to, in the same order.
        clipnorm: the largest norm.
        chain: what they went through.
    """
    norms = map(tf.sqrt, _squared_norms(gradients, variables, chain))
    return [
        g if g is None else scaled(g, clipnorm / tf.maximum(norm, clipnorm))
        for g, norm in zip(gradients, norms, strict=True)
    ]


def clip_by_global_norm(
    gradients: Sequence[Gradient], variables: Sequence[Any], clipnorm: float, chain: Chain
) -> list[Gradient]:
    """Scale all gradients so that the norm of the whole model's is at most `clipnorm`.

    Args:
        gradients: see `clip_by_norm`.
        variables: see `clip_by_norm`.
        clipnorm: the largest norm.
        chain: see `clip_by_norm`; the stages of its mesh hold the other variables of the model.
    """
    squares = _squared_norms(gradients, variables, chain)
    total = tf.add_n(squares) if squares else tf.constant(0.0)
    mesh = chain.mesh
    if mesh is not None and mesh.pipeline > 1:
        total = ops.allreduce(total, Sum, name="hvdkit_norm", process_set=mesh.pipeline_set)
    norm = tf.sqrt(total)
    # As Keras: NaN where the norm is not finite.
    scale = clipnorm * tf.minimum(1.0 / norm, 1.0 / clipnorm) + (norm - norm)
    return [g if g is None else scaled(g, scale) for g in gradients]


def _squared_norms(
    gradients: Sequence[Gradient], variables: Sequence[Any], chain: Chain
) -> list[tf.Tensor]:
    """The squared norm of each variable's whole gradient; 0 where it is None."""
    squares = [tf.constant(0.0) if g is None else squared(g) for g in gradients]
    over_replicas = [i for i, shard in enumerate(chain.shards(variables)) if shard is not None]
    if over_replicas and chain.active:
        _sum_over(chain.ranks, squares, over_replicas, "hvdkit_norms_of_shards")
    split = [i for i, variable in enumerate(variables) if is_sharded(variable)]
    if split:
        layout = layout_of(variables[split[0]])
        assert layout is not None
        _sum_over(layout.mesh.tensor_set, squares, split, "hvdkit_norms")
    return squares


def _sum_over(ranks: Any, squares: list[tf.Tensor], positions: list[int], name: str) -> None:
    """Add up some of the squares over ranks, in one operation."""
    terms = tf.stack([squares[i] for i in positions])
    sums = ops.allreduce(terms, Sum, name=name, process_set=ranks)
    for i, whole in zip(positions, tf.unstack(sums), strict=True):
        squares[i] = whole


def _has_terms(chain: Chain, variables: Sequence[Any]) -> bool:
    """Whether other ranks hold parts of gradients, or gradients of other variables of the model."""
    mesh = chain.mesh
    on_mesh = mesh is not None and (mesh.pipeline > 1 or any(map(is_sharded, variables)))
    return on_mesh or any(shard is not None for shard in chain.shards(variables))


def _require_known_shards(chain: Chain, variables: Sequence[Any]) -> None:
    """Refuse norms of gradients of which ranks own parts that an exchange says nothing of.

    Raises:
        NotImplementedError: on every rank.
    """
    exchange = chain.exchange
    # Ranks that go out of step ask nothing of each other: each updates whole variables.
    if isinstance(exchange, (Divides, OutOfStep)) or leaves_weights(exchange):
        return
    if not chain.active or (is_elastic() and not tf.executing_eagerly()):
        return
    shared = chain.shared(variables)
    known = {variable_key(variable) for variable in shared}
    problem = None
    if any(own is None or variable_key(own) not in known for own in exchange.owned(shared)):
        kind = type(exchange).__name__
        problem = (
            f"with exchange={kind} ranks own shards of variables, and it does not say which, so "
            f"clipnorm and global_clipnorm can't be right: give {kind} the methods of "
            "hvd.exchange.Divides, or use clipvalue."
        )
    raise_everywhere(problem, NotImplementedError, chain.ranks)
