"""DistributedGradientTape: for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_scale import current_scale
from hvdkit.exchange.base import Exchange, leaves_weights
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.gradient import Gradient, scaled
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.on_local_replicas import sums_first

# A loop makes a new tape for each step; the comparison of gradients between ranks is done once.
_SEEN: set[tuple[str, ...]] = set()


class DistributedTape:
    """A `tf.GradientTape` whose `gradient` is exchanged between ranks; the rest is the tape's.

    Args:
        tape: the tape.
        exchange: how gradients are exchanged.
        sparse_as_dense: see `DistributedGradientTape`.
        scale_local_gradients: see `DistributedGradientTape`.

    Raises:
        ValueError: the exchange works on weights, too.
    """

    def __init__(
        self,
        tape: tf.GradientTape,
        exchange: Exchange,
        sparse_as_dense: bool,
        scale_local_gradients: bool,
    ) -> None:
        if not leaves_weights(exchange):
            raise ValueError(_belongs_to_an_optimizer(exchange, "works on weights, too"))
        self._tape = tape
        self._chain = Chain(
            exchange, current_mesh(), sparse_as_dense, scale_local_gradients, seen=_SEEN
        )

    def __enter__(self) -> DistributedTape:
        self._tape.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._tape.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tape, name)

    def register_local_source(self, source: Any) -> None:
        """Leave the gradient of a variable out of the reduction."""
        self._chain.register_local(source)

    @tf.autograph.experimental.do_not_convert
    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        use_generic_names: bool = False,
        **options: Any,
    ) -> Any:
        """The gradient of `target`, exchanged between ranks.

        Args:
            target: as in `tf.GradientTape.gradient`.
            sources: variables (`keras.Variable` or `tf.Variable`) or tensors, in any structure.
            output_gradients: as in `tf.GradientTape.gradient`.
            use_generic_names: kept for Horovod's signature; names never depend on variables.
            **options: more arguments of `tf.GradientTape.gradient`.

        Returns:
            Gradients in the structure of `sources`.

        Raises:
            ValueError: the exchange has variables of its own.
            NotImplementedError: on several local devices (`MirroredStrategy`).
        """
        del use_generic_names
        if sums_first(self._chain):
            raise NotImplementedError(
                "DistributedGradientTape does not go with several local devices "
                "(MirroredStrategy): take a plain tf.GradientTape, and let "
                "hvd.DistributedOptimizer exchange the gradients."
            )
        flat = keras.tree.flatten(sources)
        exchange = self._chain.exchange
        if exchange.build([source for source in flat if _is_variable(source)]):
            raise ValueError(_belongs_to_an_optimizer(exchange, "has variables of its own"))
        raw = _raw_sources(sources)
        gradients = self._tape.gradient(target, raw, output_gradients, **options)
        own = _weighed_by_rows(keras.tree.flatten(gradients))
        exchanged = self._chain.gradients(own, flat, "DistributedTape")
        return keras.tree.pack_sequence_as(sources, exchanged)

    def get_local_and_global_gradients(
        self,
        target: Any,
        sources: Sequence[Any],
        output_gradients: Any = None,
        use_generic_names: bool = False,
    ) -> tuple[list[tuple[Any, Gradient]], list[tuple[Any, Gradient]]]:
        """Gradients as (source, gradient) pairs: those of local sources, and the others."""
        gradients = self.gradient(target, sources, output_gradients, use_generic_names)
        pairs = list(zip(sources, gradients, strict=True))
        local = [pair for pair in pairs if self._chain.is_local(pair[0])]
        others = [pair for pair in pairs if not self._chain.is_local(pair[0])]
        return local, others


def _weighed_by_rows(gradients: list[Gradient]) -> list[Gradient]:
    """In a step of `fit`: gradients times what this rank's rows count in the global batch."""
    scale = current_scale()
    if scale is None or scale.is_used:
        return gradients
    return [g if g is None else scaled(g, scale.value) for g in gradients]


def _raw_sources(sources: Any) -> Any:
    return keras.tree.map_structure(
        lambda source: source.value if isinstance(source, keras.Variable) else source, sources
    )


def _is_variable(source: Any) -> bool:
    return isinstance(source, (keras.Variable, tf.Variable))


def _belongs_to_an_optimizer(exchange: Exchange, why: str) -> str:
    kind = type(exchange).__name__
    return (
        f"exchange={kind} {why}, which a tape can't do: give it to the optimizer, "
        f"hvd.DistributedOptimizer(optimizer, exchange={kind}(...)), and it a plain "
        "tf.GradientTape's gradients."
    )
