"""One chunk of the model: what it computes, and how gradients come back through it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from hvdkit.exchange.gradient import Gradient
from hvdkit.mesh.variable import is_seed_state
from hvdkit.parallel.pipeline.links import Ends
from hvdkit.parallel.pipeline.losses import LossHead


@dataclass(frozen=True)
class Arguments:
    """What a chunk gets for one micro-batch.

    Attributes:
        inputs: the chunk's inputs, flat.
        targets: what the head gets besides outputs; None where no loss is wanted.
        shares: float32 vector of two: what the head's loss counts in that of the batch, and what
            the losses that layers add count.
    """

    inputs: list[Any]
    targets: tuple[Any, ...] | None
    shares: tf.Tensor


class Chunk:
    """Consecutive layers of a model, and the loss after the last of them.

    Args:
        model: a functional model that takes and returns lists of tensors.
        ends: what comes in and goes out.
        head: the loss, for the last chunk; None for the others.
        compiled: turns a function into a `tf.function`, or leaves it as it is.

    Attributes:
        model: the layers.
        ends: what comes in and goes out.
    """

    def __init__(
        self,
        model: keras.Model,
        ends: Ends,
        head: LossHead | None,
        compiled: Callable[[Any], Any],
    ) -> None:
        self.model = model
        self.ends = ends
        self._head = head
        self._train = compiled(functools.partial(self._compute, training=True))
        self._test = compiled(functools.partial(self._compute, training=False))

    def __call__(self, arguments: Arguments, *, training: bool) -> tuple[list[Any], tf.Tensor]:
        """The outputs, flat, and what the chunk adds to the loss of the batch (float32)."""
        function = self._train if training else self._test
        outputs, loss = function(arguments.inputs, arguments.targets, arguments.shares)
        return list(outputs), loss

    def _compute(
        self,
        inputs: list[Any],
        targets: tuple[Any, ...] | None,
        shares: tf.Tensor,
        training: bool,
    ) -> tuple[list[Any], tf.Tensor]:
        outputs = keras.tree.flatten(self.model(inputs, training=training))
        loss = tf.zeros([], tf.float32)
        if self._head is not None and targets is not None:
            loss += shares[0] * tf.cast(self._head(outputs, *targets), tf.float32)
        for added in self.model.losses:
            loss += shares[1] * tf.reduce_sum(tf.cast(added, tf.float32))
        return outputs, loss

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables that gradients are taken of."""
        return list(self.model.trainable_variables)

    @property
    def state(self) -> list[Any]:
        """What a forward pass changes: statistics, states of seed generators."""
        of_head = [] if self._head is None else self._head.variables
        return [*self.model.non_trainable_variables, *of_head]

    def differentiable(self, inputs: Sequence[Any]) -> list[Any]:
        """Those of its inputs that need a gradient: floats that another chunk has sent."""
        pairs = zip(inputs, self.ends.given, strict=True)
        return [tensor for tensor, number in pairs if number is None and tensor.dtype.is_floating]


class Pass(Protocol):
    """The forward pass of a micro-batch through a chunk, and what its backward pass needs."""

    def forward(self) -> tuple[list[Any], tf.Tensor]:
        """The chunk's outputs, flat, and what it adds to the loss of the batch."""
        ...

    def backward(
        self, gradients: Sequence[Any], seed: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[Gradient]]:
        """The gradients of the inputs and of the chunk's trainable variables; after `forward`.

        Args:
            gradients: those of the float outputs; [] for the last chunk.
            seed: that of the loss, a scalar: 1, or the scale of the loss.
        """
        ...


class KeptPass:
    """Keeps all activations that the backward pass needs."""

    def __init__(self, chunk: Chunk, arguments: Arguments) -> None:
        self._chunk, self._arguments = chunk, arguments
        self._sources = chunk.differentiable(arguments.inputs)
        self._variables = [variable.value for variable in chunk.trainable_variables]
        self._tape = tf.GradientTape(watch_accessed_variables=False)
        self._targets: list[tf.Tensor] = []

    def forward(self) -> tuple[list[Any], tf.Tensor]:
        """See `Pass`."""
        with self._tape:
            self._tape.watch([*self._sources, *self._variables])
            outputs, loss = self._chunk(self._arguments, training=True)
        self._targets = [*(out for out in outputs if out.dtype.is_floating), loss]
        return outputs, loss

    def backward(
        self, gradients: Sequence[Any], seed: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[Gradient]]:
        """See `Pass`."""
        found = self._tape.gradient(
            self._targets if gradients else self._targets[-1:],
            [*self._sources, *self._variables],
            output_gradients=[*gradients, tf.cast(seed, tf.float32)],
        )
        count = len(self._sources)
        of_inputs = [
            tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
            for source, gradient in zip(self._sources, found[:count], strict=True)
        ]
        return of_inputs, list(found[count:])


class RecomputedPass:
    """Keeps the inputs only, and runs the forward pass again before the backward pass.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016),
    https://arxiv.org/abs/1604.06174; GPipe's re-materialisation.
    """

    def __init__(self, chunk: Chunk, arguments: Arguments) -> None:
        self._chunk, self._arguments = chunk, arguments
        self._seeds = [(v, tf.identity(v.value)) for v in chunk.state if is_seed_state(v)]

    def forward(self) -> tuple[list[Any], tf.Tensor]:
        """See `Pass`."""
        return self._chunk(self._arguments, training=True)

    def backward(
        self, gradients: Sequence[Any], seed: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[Gradient]]:
        """See `Pass`."""
        # Dropout has to draw what it drew, and statistics must not see the rows twice.
        now = [(variable, tf.identity(variable.value)) for variable in self._chunk.state]
        for variable, value in self._seeds:
            variable.assign(value)
        again = KeptPass(self._chunk, self._arguments)
        again.forward()
        for variable, value in now:
            variable.assign(value)
        return again.backward(gradients, seed)
