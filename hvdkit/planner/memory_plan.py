"""How much memory each rank of a mesh needs to train a Transformer, before anything is allocated.

The Transformer is GPT's: a decoder with learned positions, biases, and a feed-forward layer of four
times the width. Counted are weights, gradients, the optimizer's variables, and what the backward
pass keeps of the forward pass. Not counted are the working memory of single operations, buffers
of collectives, the data, and what TensorFlow needs for itself (some 0.5 GiB a process).

Sources: ZeRO, arXiv 1910.02054, section 3.1, for weights, gradients and optimizer; Reducing
Activation Recomputation in Large Transformer Models, arXiv 2205.05198, section 4, for activations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hvdkit.planner.activation_memory import (
    KERAS_16_BIT,
    KERAS_16_BIT_STEP,
    KERAS_FLOAT32,
    KERAS_FLOAT32_STEP,
    Kept,
)
from hvdkit.planner.transformer import Degrees, TransformerShape
from hvdkit.schedules.schedules import (
    Interleaved,
    OneForwardOneBackward,
    Schedule,
    in_flight,
)

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Training:
    """How a model is trained, as far as memory depends on it.

    Attributes:
        batch_size: rows of a step, over all replicas.
        micro_batches: of a replica, as many as it has rows at most; None for 1 without a pipeline,
            and with one for twice the stages, or the next smaller number that divides the rows.
        precision: Keras's dtype policy, such as "float32" or "mixed_bfloat16".
        optimizer_slots: variables that the optimizer has for each weight: 2 for AdamW.
        sharded_optimizer: whether each replica has the optimizer's variables of its share of the
            weights only (`hvd.exchange.Sharded`).
        sequence_parallel: whether activations between sharded layers are sharded too.
        recompute: whether a stage keeps only its inputs (`PipelineModel(recompute=True)`).
        schedule: the pipeline's schedule.
        kept: what a layer keeps; None for what Keras's layers do in this precision.
    """

    batch_size: int
    micro_batches: int | None = None
    precision: str = "float32"
    optimizer_slots: int = 2
    sharded_optimizer: bool = False
    sequence_parallel: bool = False
    recompute: bool = False
    schedule: Schedule = field(default_factory=OneForwardOneBackward)
    kept: Kept | None = None

    @property
    def kept_by_layers(self) -> Kept:
        """What a layer keeps in a stage, whose passes are functions of their own."""
        return self.kept or (KERAS_FLOAT32 if self._wide else KERAS_16_BIT)

    def kept_on(self, degrees: Degrees) -> Kept:
        """What a layer keeps: in a stage of a pipeline, or in a step that is one graph."""
        if self.by_stages_on(degrees):
            return self.kept_by_layers
        return self.kept or (KERAS_FLOAT32_STEP if self._wide else KERAS_16_BIT_STEP)

    def by_stages_on(self, degrees: Degrees) -> bool:
        """Whether forward and backward pass are functions of their own, as in a pipeline."""
        return degrees.pipeline > 1 or self.recompute

    @property
    def _wide(self) -> bool:
        return _bytes_of(self.precision)[1] == _FLOAT32_BYTES

    def micro_batches_on(self, degrees: Degrees) -> int:
        """Number of micro-batches of a replica."""
        rows = max(1, self.batch_size // degrees.data)
        if self.micro_batches:
            return min(self.micro_batches, rows)
        most = 1 if degrees.pipeline == 1 else 2 * degrees.pipeline
        return max(count for count in range(1, most + 1) if rows % count == 0)


@dataclass(frozen=True)
class RankMemory:
    """What a rank of one stage needs, in bytes.

    Attributes:
        stage: the stage.
        parameters: number of weights.
        weights: the weights, and their copies in the type that is computed in; with a sharded
            optimizer once more those that it updates.
        gradients: the gradients, and with micro-batches those of one of them.
        optimizer: the optimizer's variables.
        activations: what is kept for the backward pass.
        lasting: of the gradients, what is there during the whole step.
    """

    stage: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    lasting: int = 0

    @property
    def total(self) -> int:
        """The most at the same time: a backward pass frees activations as it makes gradients."""
        passing = max(self.gradients - self.lasting, self.activations)
        return self.weights + self.optimizer + self.lasting + passing


def plan_memory(shape: TransformerShape, degrees: Degrees, training: Training) -> list[RankMemory]:
    """What the ranks need, for each stage.

    Args:
        shape: the model.
        degrees: the mesh.
        training: how it is trained.

    Raises:
        ValueError: the model or the batch does not divide.

    Example:
        >>> shape = TransformerShape(12, 768, 12, 1024, 50304)
        >>> max(rank.total for rank in plan_memory(shape, Degrees(tensor=2), Training(8)))
    """
    if problem := misfit(shape, degrees, training):
        raise ValueError(problem)
    return [_of_stage(stage, shape, degrees, training) for stage in range(degrees.pipeline)]


def misfit(shape: TransformerShape, degrees: Degrees, training: Training) -> str | None:
    """Why a model does not divide over a mesh; None if it does."""
    chunks, rows = degrees.pipeline * training.schedule.chunks, training.batch_size // degrees.data
    for what, size, by, parts in (
        ("width", shape.width, "number of heads", shape.heads),
        ("number of heads", shape.heads, "tensor degree", degrees.tensor),
        ("vocabulary", shape.vocabulary, "tensor degree", degrees.tensor),
        ("number of layers", shape.layers, "chunks of the pipeline", chunks),
        ("batch size", training.batch_size, "replicas", degrees.data),
        ("batch of a replica", rows, "micro-batches", training.micro_batches_on(degrees)),
    ):
        if size % parts:
            return f"the {what} is {size}, which does not divide by {parts}, the {by}."
    if training.sequence_parallel and shape.context % degrees.tensor:
        return (
            f"the context is {shape.context}, which does not divide by {degrees.tensor}, the "
            "tensor degree, as sequence parallelism needs it."
        )
    if shape.tied and degrees.pipeline > 1:
        return (
            "the output layer has the weights of the embedding, which is on another stage: a "
            "pipeline needs weights of its own for each."
        )
    return None


def smallest_mesh(shape: TransformerShape, training: Training, limit: int) -> Degrees | None:
    """The mesh of fewest ranks on which a model fits.

    Among those of as many ranks it has most replicas, then the largest tensor degree: ranks
    communicate least so.

    Args:
        shape: the model.
        training: how it is trained; the batch is divided over the replicas.
        limit: bytes that a rank may use.

    Returns:
        None if it fits on no mesh over which it divides.
    """
    for degrees in _meshes(shape, training):
        if misfit(shape, degrees, training) is None:
            ranks = plan_memory(shape, degrees, training)
            if max(rank.total for rank in ranks) <= limit:
                return degrees
    return None


def _meshes(shape: TransformerShape, training: Training) -> Iterator[Degrees]:
    sizes = product(_divisors(training.batch_size), _divisors(shape.layers), _divisors(shape.heads))
    meshes = [Degrees(*each) for each in sizes]
    yield from sorted(meshes, key=lambda mesh: (mesh.ranks, -mesh.data, -mesh.tensor))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _of_stage(
    stage: int, shape: TransformerShape, degrees: Degrees, training: Training
) -> RankMemory:
    of_variable, of_copy = _bytes_of(training.precision)
    parameters = shape.parameters_of(stage, degrees)
    count = training.micro_batches_on(degrees)
    passes = passes_kept(training.schedule, degrees.pipeline, count)[stage]
    # Each forward pass that is kept has its own copies.
    copies = 0 if of_copy == of_variable else 1 if training.recompute else passes
    gradients = parameters * of_variable * (1 if count == 1 else 2)
    by_stages = training.by_stages_on(degrees)
    sharded = training.sharded_optimizer and degrees.data > 1
    share = math.ceil(parameters / degrees.data) if sharded else parameters
    return RankMemory(
        stage=stage,
        parameters=parameters,
        weights=parameters * (of_variable + copies * of_copy)
        + (share * of_variable if sharded else 0),
        gradients=gradients,
        optimizer=share * of_variable * training.optimizer_slots,
        activations=math.ceil(_activations(stage, shape, degrees, training, passes, of_copy)),
        lasting=gradients if by_stages else gradients - parameters * of_variable,
    )


def _activations(
    stage: int,
    shape: TransformerShape,
    degrees: Degrees,
    training: Training,
    passes: int,
    of_element: int,
) -> float:
    kept = training.kept_on(degrees)
    count = training.micro_batches_on(degrees)
    rows = math.ceil(training.batch_size / degrees.data / count)
    arguments = (shape, rows, degrees.tensor, training.sequence_parallel)
    layers = shape.layers // (degrees.pipeline * training.schedule.chunks)
    one = layers * kept.layer(*arguments)
    if stage == degrees.pipeline - 1:
        one += kept.head(*arguments)
    if not training.recompute:
        return passes * one
    between = shape.context * rows * shape.width * of_element
    if training.sequence_parallel:
        between //= degrees.tensor
    return one + passes * 2 * between  # what comes in and what goes out


def passes_kept(schedule: Schedule, stages: int, micro_batches: int) -> list[int]:
    """How many forward passes each stage keeps at most."""
    same: Any = schedule  # the protocol does not say that it can be the key of a cache
    return _passes_kept(same, stages, micro_batches)


@functools.cache
def _passes_kept(schedule: Any, stages: int, micro_batches: int) -> list[int]:
    """See `passes_kept`.

    With 1F1B more micro-batches than two for each stage are worked off one by one, so that no more
    are kept: thousands of them need not be laid out.
    """
    in_turns = isinstance(schedule, OneForwardOneBackward) or (
        isinstance(schedule, Interleaved) and micro_batches % stages == 0
    )
    count = min(micro_batches, 2 * stages) if in_turns else micro_batches
    return [in_flight(actions) for actions in schedule.plan(stages, count)]


# Bytes of an element of a variable, and of what is computed, under the usual policies of Keras's.
_BYTES = {
    "float32": (4, 4),
    "float16": (2, 2),
    "bfloat16": (2, 2),
    "mixed_float16": (4, 2),
    "mixed_bfloat16": (4, 2),
}


@functools.cache
def _bytes_of(precision: str) -> tuple[int, int]:
    """Bytes of an element of a variable, and of what is computed, under a policy of Keras's."""
    if precision in _BYTES:
        return _BYTES[precision]
    import keras  # only here, so that most plans need no TensorFlow
    import tensorflow as tf

    policy = keras.DTypePolicy(precision)
    return tf.as_dtype(policy.variable_dtype).size, tf.as_dtype(policy.compute_dtype).size
