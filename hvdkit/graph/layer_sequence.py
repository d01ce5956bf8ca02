"""Cutting a functional or Sequential model into consecutive parts.

The calls of its layers are put in one sequence, in the order in which the model runs them. Between
any two of them is a point to cut at. The tensors that cross it, those that skip several parts
included, are the outputs of the part before and the inputs of the part after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import keras

from hvdkit.keras_internals import Functional, get_keras_mask

KerasTensor = Any
# One call of a layer or operation: Keras's `Node`.
Step = Any


@dataclass(frozen=True)
class Part:
    """A part of a model: consecutive calls of layers, and the tensors at its two ends.

    Attributes:
        steps: the calls, in order (nodes of Keras's graph).
        inputs: tensors of the model that come in: the model's inputs for the first part, the
            previous part's `outputs` for the others.
        outputs: tensors that go out: the model's outputs for the last part. What only later parts
            need is among both `inputs` and `outputs`.
    """

    steps: tuple[Step, ...]
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]

    @property
    def layers(self) -> list[Any]:
        """Its layers, each once; operations such as `keras.ops.add` are not among them."""
        return [op for op in operations_of(self.steps) if isinstance(op, keras.layers.Layer)]

    @property
    def masked(self) -> list[bool]:
        """For each of `outputs`, whether Keras attaches a mask to it while the model runs.

        Layers that use a mask get it as a tensor like others. This one is for the loss, which
        uses a mask that arrived at the model's outputs.
        """
        return [get_keras_mask(tensor) is not None for tensor in self.outputs]


@dataclass(frozen=True)
class LayerSequence:
    """The calls of a model's layers in the order in which they run.

    Attributes:
        name: the model's name.
        steps: the calls, without the input layers.
        inputs: the model's inputs, in its order.
        outputs: the model's outputs, in its order.
        input_structure: `inputs` as the model takes them, alone, in a list or in a dictionary.
        output_structure: `outputs` as the model returns them.
        inside: of steps of nested models, by the step's id, the names of these models, outermost
            first.
    """

    name: str
    steps: tuple[Step, ...]
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    input_structure: Any
    output_structure: Any
    inside: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def cut_points(self) -> list[int]:
        """Where it is cut by default: point `p` is before step `p`.

        One or two variables that are needed on both sides, such as an embedding that is also the
        last layer's kernel, do not stand in the way. More do: models that are called twice stay
        together.
        """
        return [p for p in range(1, len(self.steps)) if len(self.tied_across(p)) <= 2]

    def blocks(self, also: Iterable[int] = ()) -> list[tuple[int, int]]:
        """What is between the cut points: for each block its first step and the one after its last.

        Args:
            also: more points.
        """
        ends = [0, *sorted({*self.cut_points(), *also}), len(self.steps)]
        return list(pairwise(ends))

    def point_after(self, layer_name: str) -> int:
        """The point after the last call of a layer, or of a nested model.

        Args:
            layer_name: its name; with those of the nested models that it is in, as in
                "encoder/dense", where several have the same.

        Raises:
            ValueError: there is no such layer, there are several, or it is the last.
        """
        ends = {path: i + 1 for i, step in enumerate(self.steps) for path in self._paths(step)}
        found = [path for path in ends if path == layer_name] or [
            path for path in ends if path.endswith(f"/{layer_name}")
        ]
        if not found:
            names = dict.fromkeys(self._paths(step)[-1] for step in self.steps)
            raise ValueError(
                f"model {self.name!r} has no layer {layer_name!r} to cut after; its layers are "
                f"{', '.join(names)}."
            )
        if len(found) > 1:
            raise ValueError(
                f"model {self.name!r} has several layers {layer_name!r}: name one of "
                f"{', '.join(found)}."
            )
        if ends[found[0]] == len(self.steps):
            raise ValueError(
                f"{layer_name!r} is the last layer of model {self.name!r}: no part is after it."
            )
        return ends[found[0]]

    def cut(self, points: Iterable[int]) -> list[Part]:
        """The parts between some points, at most one more than there are points.

        Raises:
            ValueError: a point is at an end or outside.
        """
        ends = sorted(set(points))
        if outside := [p for p in ends if not 0 < p < len(self.steps)]:
            raise ValueError(
                f"point {outside[0]} is not inside model {self.name!r}, which has the points 1 to "
                f"{len(self.steps) - 1}."
            )
        starts, stops = [0, *ends], [*ends, len(self.steps)]
        crossing = [self.inputs, *(self.crossing(p) for p in ends), self.outputs]
        return [
            Part(self.steps[start:stop], crossing[i], crossing[i + 1])
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]

    def crossing(self, point: int) -> tuple[KerasTensor, ...]:
        """The tensors that are there before a point and needed after it."""
        made = [*self.inputs, *(t for step in self.steps[:point] for t in step.outputs)]
        later = [t for step in self.steps[point:] for t in step.input_tensors]
        needed = {id(t) for t in [*later, *self.outputs]}
        return tuple(t for t in made if id(t) in needed)

    def tied_across(self, point: int) -> list[Any]:
        """The variables of layers on both sides of a point."""
        return [v for v, first, last in self._uses if first < point <= last]

    @cached_property
    def _uses(self) -> list[tuple[Any, int, int]]:
        """Each variable with the first and the last step that uses it."""
        of_operation = {id(op): variables_of_operation(op) for op in operations_of(self.steps)}
        uses: dict[int, tuple[Any, int, int]] = {}
        for i, step in enumerate(self.steps):
            for variable in of_operation[id(step.operation)]:
                _, first, _ = uses.get(id(variable), (None, i, i))
                uses[id(variable)] = variable, first, i
        return list(uses.values())

    def _paths(self, step: Step) -> list[str]:
        """What a step's nested models are called, and last the step itself."""
        names = [*self.inside.get(id(step), ()), step.operation.name]
        return ["/".join(names[: i + 1]) for i in range(len(names))]


def layer_sequence_of(model: keras.Model) -> LayerSequence:
    """Put the calls of a model's layers in one sequence; see `flattened` for nested models.

    Args:
        model: a built functional or Sequential model.

    Raises:
        ValueError: the model is not built, or has Python code of its own that can't be cut.

    Example:
        >>> sequence = layer_sequence_of(model)
        >>> first, second = sequence.cut([sequence.point_after("dense_3")])
        >>> keras_models = [part_model(part, name="part") for part in (first, second)]
    """
    graph = graph_of(model)
    order = {id(op): i for i, op in enumerate(graph.operations)}
    steps = [
        (-depth, order[id(node.operation)], node.operation._inbound_nodes.index(node), node)
        for depth, nodes in graph._nodes_by_depth.items()
        for node in nodes
        if not node.is_input
    ]
    steps.sort(key=lambda step: step[:3])
    return LayerSequence(
        model.name,
        tuple(step[3] for step in steps),
        tuple(graph.inputs),
        tuple(graph.outputs),
        graph._inputs_struct,
        graph._outputs_struct,
    )


def parts_of(model: keras.Model, after: Sequence[str]) -> list[Part]:
    """Cut a model after the layers with these names.

    Raises:
        ValueError: see `layer_sequence_of`, `LayerSequence.point_after` and `LayerSequence.cut`.
    """
    sequence = layer_sequence_of(model)
    return sequence.cut(sequence.point_after(name) for name in after)


def graph_of(model: Any) -> Any:
    """Keras's graph of a model: a `Functional` whose call is its own.

    Raises:
        ValueError: the model is not built, or has Python code of its own that can't be cut.
    """
    name = getattr(model, "name", repr(model))
    if isinstance(model, keras.Sequential):
        if model._functional is not None:
            return model._functional
        raise ValueError(
            f"model {name!r} is not built, so its layers' shapes are not known: give it a "
            "keras.Input first, or call model.build(input_shape)."
        )
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    raise ValueError(
        f"model {name!r} ({type(model).__name__}) can't be cut: what its call() does is Python "
        "code, not a graph of layers. Make it a functional model (keras.Model(inputs, outputs)), "
        "or give hvd.parallel.LayerSplit the list of its layers or parts."
    )


def operations_of(steps: Iterable[Step]) -> list[Any]:
    """The layers and operations of some steps, each once."""
    return list({id(step.operation): step.operation for step in steps}.values())


def variables_of(steps: Iterable[Step]) -> list[Any]:
    """The variables of the layers of some steps, each once."""
    found = {id(v): v for op in operations_of(steps) for v in variables_of_operation(op)}
    return list(found.values())


def variables_of_operation(operation: Any) -> list[Any]:
    """The variables of a layer; none of an operation."""
    return list(getattr(operation, "variables", []))
