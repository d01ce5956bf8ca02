"""The layers of nested models, in one sequence with those around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras

from hvdkit.graph.layer_sequence import LayerSequence, Step, graph_of, layer_sequence_of
from hvdkit.graph.rebuild import distinct_names, inputs_like, operations_behind, put, replay
from hvdkit.keras_internals import set_keras_mask


def flattened(model: keras.Model) -> LayerSequence:
    """The layer sequence of a model, with the steps of nested models as its own: more cut points.

    The layers are the original's. A nested model with Python code of its own stays one step, and so
    does one that converts what it is given, to another type or rank.

    Raises:
        ValueError: the model can't be cut.
    """
    sequence = layer_sequence_of(model)
    if not any(_inner_sequence(step) for step in sequence.steps):
        return sequence
    flattening = _Flattening()

    def between(inputs: list[Any]) -> list[Any]:
        tensors = {id(old): new for old, new in zip(sequence.inputs, inputs, strict=True)}
        flattening.replay(sequence.steps, tensors, ())
        return [tensors[id(t)] for t in sequence.outputs]

    inputs = inputs_like(sequence)
    outputs = between(inputs)
    with distinct_names(operations_behind(outputs)):
        flat = layer_sequence_of(keras.Model(inputs, outputs, name=sequence.name))
    return replace(
        flat,
        input_structure=sequence.input_structure,
        output_structure=sequence.output_structure,
        inside={id(step): flattening.inside.get(id(step), ()) for step in flat.steps},
    )


class _Flattening:
    """Calls the layers of a model, and those of its nested models, one after the other.

    Attributes:
        inside: for each call (by the id of its node) the names of the models around it.
    """

    def __init__(self) -> None:
        self.inside: dict[int, tuple[str, ...]] = {}

    def replay(
        self,
        steps: Iterable[Step],
        tensors: dict[int, Any],
        inside: tuple[str, ...],
        training: bool | None = None,
    ) -> None:
        """Call the steps on the tensors that stand for their own, and note what they return.

        Args:
            steps: the steps.
            tensors: what stands for each tensor, by its id.
            inside: the names of the models around them.
            training: as what the innermost of these models was called.
        """
        for step in steps:
            inner = _inner_sequence(step)
            if inner is None:
                node = replay(step, tensors, training=training)
                self.inside[id(node)] = inside
                continue
            args, kwargs = step.arguments.fill_in(tensors)
            given = _inputs_of(step.operation, _first(args, kwargs))
            for tensor, mask in zip(given, _masks(kwargs, len(given)), strict=True):
                if mask is not None:
                    set_keras_mask(tensor, mask)
            own = {id(old): new for old, new in zip(inner.inputs, given, strict=True)}
            as_what = training if training is not None else kwargs.get("training")
            self.replay(inner.steps, own, (*inside, inner.name), as_what)
            put(tensors, step, [own[id(t)] for t in inner.outputs])


def _inner_sequence(step: Step) -> LayerSequence | None:
    """The sequence of a nested model; None if the step is not the same as its steps."""
    model, kwargs = step.operation, dict(step.arguments.kwargs)
    if not isinstance(model, keras.Model) or model.activity_regularizer is not None:
        return None
    if len(step.arguments.args) > 1 or set(kwargs) - {"inputs", "training", "mask"}:
        return None
    try:
        sequence = layer_sequence_of(model)
        given = _inputs_of(model, _first(step.arguments.args, kwargs))
    except ValueError:
        return None
    taken = all(
        tensor is None
        or (tensor.dtype, len(tensor.shape), tensor.sparse)
        == (own.dtype, len(own.shape), own.sparse)
        for tensor, own in zip(given, sequence.inputs, strict=True)
    )
    return sequence if taken else None


def _first(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The inputs that a model was called with."""
    return args[0] if args else kwargs["inputs"]


def _inputs_of(model: keras.Model, given: Any) -> list[Any]:
    """What a model was given for each of its inputs, as Keras finds it out.

    Raises:
        ValueError: it was given something else.
    """
    structure = graph_of(model)._inputs_struct
    if isinstance(given, dict) and not isinstance(structure, dict):
        names = [tensor.name for tensor in keras.tree.flatten(structure)]
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"model {model.name!r} was called without {missing[0]!r}.")
        return [given[name] for name in names]
    flat: list[Any] = keras.tree.flatten(given)
    if len(flat) != len(keras.tree.flatten(structure)):
        raise ValueError(f"model {model.name!r} was called with {len(flat)} inputs.")
    return flat


def _masks(kwargs: dict[str, Any], count: int) -> list[Any]:
    """The masks with which a model was called, one for each input."""
    mask = kwargs.get("mask")
    return [None] * count if mask is None else list(keras.tree.flatten(mask))
