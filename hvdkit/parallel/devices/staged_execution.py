"""Running consecutive parts of a model on their devices, forward and backward.

`tf.GradientTape` makes the operations of the backward pass on whatever device is current when
`gradient` is called, not where those of the forward pass are. So each part has a tape of its own,
whose gradients are taken on the part's device, and the tapes around see one operation, put on them
with TensorFlow's `record_operation`. (`tf.custom_gradient` passes all variables of all devices
through one node of the graph, which lies on one device.)

Micro-batches are independent of each other, and TensorFlow's executor runs every operation as soon
as what it needs is there: while one device works on one of them, the next works on another, as in
GPipe (Huang et al., 2019, https://arxiv.org/abs/1811.06965).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import record

from hvdkit.exchange.gradient import Gradient, total
from hvdkit.keras_internals import get_keras_mask, set_keras_mask
from hvdkit.parallel.devices.placed_part import PlacedPart
from hvdkit.parallel.micro_batches import MicroBatch, joined, micro_batches_of


@dataclass(frozen=True)
class _Run:
    """One part, run on one micro-batch.

    Attributes:
        part: the part.
        tape: recorded it; None if no gradients are asked for.
        inputs: what it was given, on its device.
        outputs: what it returned.
        passed: numbers of outputs that are inputs passed on, with the numbers of these inputs.
        losses: what is added to the loss: its layers' own losses, and penalties of its weights.
    """

    part: PlacedPart
    tape: tf.GradientTape | None
    inputs: list[Any]
    outputs: list[Any]
    passed: dict[int, int]
    losses: list[tf.Tensor]

    def gradients(
        self, of_outputs: Sequence[Gradient], of_loss: Gradient
    ) -> tuple[list[Gradient], list[Gradient]]:
        """Gradients of the inputs and of the trained variables, made on the part's device."""
        assert self.tape is not None
        own = [g if i not in self.passed else None for i, g in enumerate(of_outputs)]
        asked = [
            (target, gradient)
            for target, gradient in zip(
                [*self.outputs, *self.losses], [*own, *[of_loss] * len(self.losses)], strict=True
            )
            if gradient is not None
        ]
        variables = self.part.trained
        sources = [t for t in self.inputs if _differentiable(t)]
        with tf.device(self.part.device):
            found = [None] * (len(sources) + len(variables))
            if asked:
                found = self.tape.gradient(
                    [target for target, _ in asked],
                    [*sources, *variables],
                    output_gradients=[gradient for _, gradient in asked],
                )
            dense = iter(g if g is None else tf.convert_to_tensor(g) for g in found)
            of_inputs = [next(dense) if _differentiable(t) else None for t in self.inputs]
            for output, source in self.passed.items():
                of_inputs[source] = total([of_inputs[source], of_outputs[output]])
        return of_inputs, found[len(sources) :]


def run(parts: Sequence[PlacedPart], inputs: Any, count: int) -> tuple[Any, tf.Tensor | None]:
    """Run the parts one after the other.

    Args:
        parts: the parts; the outputs of one are the inputs of the next.
        inputs: structure of tensors with the same number of rows.
        count: number of micro-batches.

    Returns:
        The last part's outputs, with their masks, and the sum of the losses that layers have
        added (each a mean over the rows, as Keras's own are), or None.
    """
    given = keras.tree.flatten(inputs)
    with tf.device(parts[0].device):
        micro_batches = micro_batches_of(given, count)
        flat = [[one.of(tensor) for tensor in given] for one in micro_batches]
    runs, structure = [], inputs
    for number, one in enumerate(micro_batches):
        relay, structure = _relay(parts, inputs, flat[number], one.share, number == 0)
        runs.append(relay)
    with tf.device(parts[-1].device):
        columns = zip(*(relay[-1].outputs for relay in runs), strict=True)
        outputs = [_own_tensor(joined(column, micro_batches)) for column in columns]
        losses = [loss for relay in runs for made in relay for loss in made.losses]
        loss = tf.add_n(losses) if losses else None
    if record.could_possibly_record():
        _record(_Backward(parts, runs, micro_batches), given, outputs, loss)
    return keras.tree.pack_sequence_as(structure, outputs), loss


def _relay(
    parts: Sequence[PlacedPart], structure: Any, flat: list[Any], share: Any, penalized: bool
) -> tuple[list[_Run], Any]:
    """Run all parts on one micro-batch; returns also the structure of the last one's outputs."""
    relay: list[_Run] = []
    for part in parts:
        made, structure = _run(part, structure, flat, share, penalized)
        flat = made.outputs
        relay.append(made)
    return relay, structure


def _run(
    part: PlacedPart, structure: Any, given: list[Any], share: Any, penalized: bool
) -> tuple[_Run, Any]:
    recording = record.could_possibly_record()
    with tf.device(part.device), _quiet_about_masks():
        inputs = [_own_tensor(tensor) for tensor in given]
        with _tape_of(part, inputs) if recording else contextlib.nullcontext() as tape:
            structure = part.layer(keras.tree.pack_sequence_as(structure, inputs))
            losses = [x * tf.cast(share, x.dtype) for x in _taken_losses(part.layer)]
            if penalized:  # once for all micro-batches
                losses += [penalty(v) for v, penalty in part.penalties if v.trainable]
    outputs = keras.tree.flatten(structure)
    numbers = {id(tensor): i for i, tensor in enumerate(inputs) if tensor is not None}
    passed = {i: numbers[id(t)] for i, t in enumerate(outputs) if id(t) in numbers}
    # What is passed on goes from where it was made to where it is needed, not from part to part.
    outputs = [given[passed[i]] if i in passed else t for i, t in enumerate(outputs)]
    return _Run(part, tape, inputs, outputs, passed, losses), structure


@contextlib.contextmanager
def _tape_of(part: PlacedPart, inputs: list[Any]) -> Iterator[tf.GradientTape]:
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch([t for t in inputs if _differentiable(t)])
        tape.watch(part.trained)
        yield tape


@dataclass(frozen=True)
class _Backward:
    """The gradients of all parts, taken micro-batch by micro-batch."""

    parts: Sequence[PlacedPart]
    runs: list[list[_Run]]
    micro_batches: list[MicroBatch]

    def __call__(
        self, of_outputs: list[Gradient], of_loss: Gradient
    ) -> tuple[list[Gradient], list[Gradient]]:
        """Gradients of the inputs, and of the trained variables of all parts."""
        inputs: list[list[Gradient]] = []
        own: dict[int, list[Gradient]] = {id(v): [] for v in self.trained}
        for relay, one in zip(self.runs, self.micro_batches, strict=True):
            with tf.device(self.parts[-1].device):
                flowing = [None if g is None else one.of_gradient(g) for g in of_outputs]
            for made in reversed(relay):
                flowing, of_variables = made.gradients(flowing, of_loss)
                for variable, gradient in zip(made.part.trained, of_variables, strict=True):
                    own[id(variable)].append(gradient)
            inputs.append(flowing)
        with tf.device(self.parts[0].device):
            of_inputs = [
                _joined_gradients(column, self.micro_batches)
                for column in zip(*inputs, strict=True)
            ]
        return of_inputs, [_total_of(variable, own[id(variable)]) for variable in self.trained]

    @property
    def trained(self) -> list[tf.Variable]:
        """The trained variables of all parts, those of several parts once."""
        return list({id(v): v for part in self.parts for v in part.trained}.values())


def _record(
    backward: _Backward, given: list[Any], outputs: list[Any], loss: tf.Tensor | None
) -> None:
    """Let the tapes around take the gradients of all parts from `backward`."""
    numbers = [i for i, t in enumerate(outputs) if _differentiable(t)]
    sources = [i for i, t in enumerate(given) if _differentiable(t)]
    results = [outputs[i] for i in numbers] + ([] if loss is None else [loss])
    # A variable's handle stands for it on a tape.
    handles = [v.handle for v in backward.trained]

    def gradient_function(*gradients: Gradient) -> list[Gradient]:
        of_outputs: list[Gradient] = [None] * len(outputs)
        for number, gradient in zip(numbers, gradients[: len(numbers)], strict=True):
            of_outputs[number] = gradient
        of_inputs, of_variables = backward(of_outputs, None if loss is None else gradients[-1])
        return [of_inputs[i] for i in sources] + of_variables

    record.record_operation(
        "LayerSplit", results, [given[i] for i in sources] + handles, gradient_function
    )


def _total_of(variable: tf.Variable, gradients: list[Gradient]) -> Gradient:
    """The sum of a variable's gradients, of all parts and micro-batches, where it lies."""
    with tf.device(variable.device):
        return total(gradients)


def _joined_gradients(gradients: Sequence[Gradient], micro_batches: list[MicroBatch]) -> Gradient:
    if any(gradient is None for gradient in gradients):
        return None
    return joined(gradients, micro_batches)


def _taken_losses(layer: Any) -> list[tf.Tensor]:
    """What a layer and those in it have added to the loss, no longer with them."""
    losses = [x for one in layer._flatten_layers() for x in one._get_own_losses()]
    if losses:
        layer._clear_losses()
    return losses


def _own_tensor(tensor: Any) -> Any:
    """The same on the current device, as a tensor of its own, with its mask."""
    if tensor is None:
        return None
    copy = tf.identity(tensor)
    if (mask := get_keras_mask(tensor)) is not None:
        set_keras_mask(copy, tf.identity(mask))
    return copy


def _differentiable(tensor: Any) -> bool:
    return isinstance(tensor, tf.Tensor) and (tensor.dtype.is_floating or tensor.dtype.is_complex)


@contextlib.contextmanager
def _quiet_about_masks() -> Iterator[None]:
    """Keras warns that a model drops the mask of its inputs; its layers do get it."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Layer .* .of type (PartModel|Functional|Sequential). was passed an"
        )
        yield
