"""A stage at work: it runs the actions of a plan, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from hvdkit.exchange.gradient import Gradient, added
from hvdkit.parallel.pipeline.batch import PipelineBatch
from hvdkit.parallel.pipeline.chunk import Arguments, Chunk, Pass
from hvdkit.parallel.pipeline.links import Signature
from hvdkit.parallel.pipeline.losses import Share
from hvdkit.parallel.pipeline.trace import Clock
from hvdkit.schedules.actions import Action, Backward, Forward

Outputs = Callable[[int, list[tf.Tensor]], None]
"""Takes the number of a micro-batch and the model's outputs for it, flat."""


@dataclass
class StageResult:
    """What a stage has after a batch.

    Attributes:
        loss: the loss of the batch up to the stage's last chunk; the model's on the last stage.
        gradients: for each chunk those of its trainable variables.
        kept: how many micro-batches the stage kept the activations of, at most.
    """

    loss: float = 0.0
    gradients: list[list[Gradient]] = field(default_factory=list)
    kept: int = 0


@dataclass(frozen=True)
class _Kept:
    done: Pass
    sent: list[Signature]


class Stage:
    """The chunks of one rank.

    Args:
        chunks: the chunks, in order.
        keep: how a forward pass is kept for its backward pass.
        share: what the loss of a micro-batch counts in that of the batch.
        clock: told when each action begins and ends.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        keep: Callable[[Chunk, Arguments], Pass],
        share: Share,
        clock: Clock,
    ) -> None:
        self._chunks = list(chunks)
        self._keep = keep
        self._share = share
        self._clock = clock

    def train(
        self, batch: PipelineBatch, actions: Sequence[Action], seed: tf.Tensor, outputs: Outputs
    ) -> StageResult:
        """Run the forward and backward passes of a batch.

        Args:
            batch: the micro-batches.
            actions: what to do, in order.
            seed: the gradient of the loss: 1, or the scale of the loss.
            outputs: gets the model's outputs, on the last stage.

        Returns:
            The loss and the gradients, added up over the micro-batches.
        """
        result = StageResult(gradients=[[None] * len(c.trainable_variables) for c in self._chunks])
        kept: dict[tuple[int, int], _Kept] = {}
        for action in actions:
            key = action.micro_batch, action.chunk
            if isinstance(action, Forward):
                kept[key] = self._forward(batch, action, result, outputs)
                result.kept = max(result.kept, len(kept))
            else:
                self._backward(kept.pop(key), action, result, seed)
        return result

    def _forward(
        self, batch: PipelineBatch, action: Forward, result: StageResult, outputs: Outputs
    ) -> _Kept:
        chunk = self._chunks[action.chunk]
        arguments, loss = self._arguments(chunk, batch, action.micro_batch, with_targets=True)
        done = self._keep(chunk, arguments)
        with self._clock.times(action):
            tensors, own = done.forward()
            loss += float(own)
        self._pass_on(chunk, action.micro_batch, tensors, loss, result, outputs)
        sent = [] if chunk.ends.after is None else [t for t in tensors if t.dtype.is_floating]
        return _Kept(done, [Signature(tuple(t.shape), t.dtype) for t in sent])

    def _backward(
        self, kept: _Kept, action: Backward, result: StageResult, seed: tf.Tensor
    ) -> None:
        chunk = self._chunks[action.chunk]
        gradients = [] if chunk.ends.after is None else chunk.ends.after.receive_backward(kept.sent)
        with self._clock.times(action):
            of_inputs, of_variables = kept.done.backward(gradients, seed)
            result.gradients[action.chunk] = added(result.gradients[action.chunk], of_variables)
        if chunk.ends.before is not None:
            chunk.ends.before.send_backward(of_inputs)

    def test(
        self,
        batch: PipelineBatch,
        actions: Sequence[Action],
        outputs: Outputs,
        *,
        with_targets: bool,
    ) -> StageResult:
        """Run the forward passes of a batch, as for `evaluate` and `predict`.

        Args:
            batch: the micro-batches.
            actions: what to do in training, in order; the backward passes are left out.
            outputs: gets the model's outputs, on the last stage.
            with_targets: whether there are targets to compute a loss with.
        """
        result = StageResult()
        for action in actions:
            if isinstance(action, Backward):
                continue
            chunk = self._chunks[action.chunk]
            arguments, loss = self._arguments(chunk, batch, action.micro_batch, with_targets)
            found, own = chunk(arguments, training=False)
            self._pass_on(chunk, action.micro_batch, found, loss + float(own), result, outputs)
        return result

    def _arguments(
        self, chunk: Chunk, batch: PipelineBatch, micro_batch: int, with_targets: bool
    ) -> tuple[Arguments, float]:
        """What a chunk computes with, and the loss of the chunks before it."""
        sent, loss = ([], 0.0) if chunk.ends.before is None else chunk.ends.before.receive_forward()
        arriving = iter(sent)
        inputs = [
            next(arriving) if number is None else batch.input(number, micro_batch)
            for number in chunk.ends.given
        ]
        last = with_targets and chunk.ends.after is None
        share = self._share(batch, micro_batch) if last else 0.0
        shares = tf.constant([share, batch.fraction(micro_batch)], tf.float32)
        targets = batch.targets(micro_batch) if last else None
        return Arguments(inputs, targets, shares), loss

    def _pass_on(
        self,
        chunk: Chunk,
        micro_batch: int,
        tensors: list[tf.Tensor],
        loss: float,
        result: StageResult,
        outputs: Outputs,
    ) -> None:
        if chunk.ends.after is not None:
            chunk.ends.after.send_forward(tensors, loss)
            return
        result.loss += loss
        outputs(micro_batch, tensors)
