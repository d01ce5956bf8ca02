"""What is pruned, and where it is found in a model: weights, neurons or heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from hvdkit.compress.groups import Group, Slice
from hvdkit.compress.neurons import pairs_of, problem_of_kernel
from hvdkit.graph.layer_sequence import LayerSequence, layer_sequence_of
from hvdkit.mesh.layout import is_sharded
from hvdkit.mesh.variable import path_of
from hvdkit.parallel.pipeline.model import PipelineModel

Layers = Sequence[Any] | None
"""Layers, or their names; None for all that can be pruned."""

_NAMED = 3


class Units(Protocol):
    """What is pruned."""

    def find(self, model: Any) -> list[Group]:
        """The units of a model, by layers.

        Raises:
            ValueError: there are none, or a layer that was asked for can't be pruned so.
        """


@dataclass(frozen=True)
class Weights:
    """Single weights of kernels, those with the smallest magnitudes of each kernel.

    The model stays as large and as fast; its files are smaller once they are compressed (gzip).
    Kernels are the weights whose names end in "kernel": those of Dense, convolution, recurrent and
    attention layers; no embeddings, biases or scales.

    Args:
        layers: layers, or their names, with those inside them; None for all.
    """

    layers: Layers = None

    def find(self, model: Any) -> list[Group]:
        """See `Units`."""
        _require_unsharded_model(model)
        chosen = [model] if self.layers is None else _chosen(model, self.layers)
        groups: dict[int, Group] = {}
        for top in chosen:
            kernels = list(_kernels_of(top))
            if not kernels:
                raise ValueError(f"{top.name} has no kernels that are trained, to be pruned.")
            for layer, kernel in kernels:
                size = int(kernel.value.shape.num_elements())
                parts = (Slice(kernel),)
                groups[id(kernel)] = Group(layer, path_of(kernel), size, parts, least=0)
        return _unsharded(groups.values())


@dataclass(frozen=True)
class Neurons:
    """Hidden units of Dense layers that are followed by another Dense layer.

    Between the two may be activations, dropout and BatchNormalization. The score of a neuron is the
    norm of its column in the one kernel, of its bias, and of its row in the other. `shrink` then
    makes the layers smaller; at least one neuron of each layer stays.

    Args:
        layers: layers, or their names; None for all that can be pruned.
    """

    layers: Layers = None

    def find(self, model: Any) -> list[Group]:
        """See `Units`."""
        _require_unsharded_model(model)
        found = [pair for sequence in sequences_of(model) for pair in pairs_of(sequence)]
        return _selected(model, found, self.layers, "neurons")


@dataclass(frozen=True)
class Heads:
    """Heads of `keras.layers.MultiHeadAttention`.

    The score of a head is the norm of its share of all kernels and biases. `shrink` then makes the
    layers smaller; at least one head of each layer stays.

    Args:
        layers: layers, or their names; None for all that can be pruned.
    """

    layers: Layers = None

    def find(self, model: Any) -> list[Group]:
        """See `Units`."""
        _require_unsharded_model(model)
        steps = [step for sequence in sequences_of(model) for step in sequence.steps]
        layers = {id(step.operation): step.operation for step in steps}.values()
        kind = keras.layers.MultiHeadAttention
        found = [(layer, _heads_of(layer)) for layer in layers if type(layer) is kind]
        return _selected(model, found, self.layers, "heads")


def sequences_of(model: Any) -> Iterator[LayerSequence]:
    """The graphs of a model and of those inside it, as far as they are graphs."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model):
            try:
                sequence = layer_sequence_of(layer)
            except ValueError:  # Python code of its own
                continue
            yield sequence


def _heads_of(layer: Any) -> Group | str:
    kernels = [layer._query_dense, layer._key_dense, layer._value_dense]
    if getattr(layer, "_gate_dense", None) is not None:
        kernels.append(layer._gate_dense)
    for inner in (*kernels, layer._output_dense):
        if problem := problem_of_kernel(inner):
            return f"{inner.name}: {problem}"
    slices = [Slice(inner.kernel, 1) for inner in kernels]
    slices += [Slice(inner.bias, 0) for inner in kernels if inner.bias is not None]
    slices.append(Slice(layer._output_dense.kernel, 0))
    return Group(layer, layer.name, layer.num_heads, tuple(slices), setting="num_heads")


def _kernels_of(top: Any) -> Iterator[tuple[Any, Any]]:
    for layer in top._flatten_layers():
        trained = {id(variable) for variable in layer.trainable_variables}
        for variable in layer._trainable_variables:
            if variable.name.endswith("kernel") and id(variable) in trained:
                yield layer, variable


def _selected(
    model: Any, found: Iterable[tuple[Any, Group | str]], wanted: Layers, what: str
) -> list[Group]:
    """The groups of the layers that are wanted."""
    by_layer: dict[int, Group | str] = {}
    names: dict[int, str] = {}
    for layer, one in found:
        by_layer.setdefault(id(layer), one)
        names[id(layer)] = layer.name
    if wanted is None:
        groups = [one for one in by_layer.values() if isinstance(one, Group)]
        if not groups:
            reasons = [f"{names[key]}: {one}" for key, one in by_layer.items()][:_NAMED]
            why = f" ({'; '.join(reasons)})" if reasons else ""
            raise ValueError(
                f"model {model.name!r} has no layers whose {what} can be pruned{why}; "
                "hvd.compress.Weights prunes the kernels of any layer."
            )
        return _unsharded(groups)
    groups = []
    for layer in _chosen(model, wanted):
        one = by_layer.get(id(layer), f"it is a {type(layer).__name__}, or inside another layer")
        if isinstance(one, str):
            raise ValueError(f"the {what} of {layer.name} can't be pruned: {one}.")
        groups.append(one)
    return _unsharded(groups)


def _chosen(model: Any, wanted: Sequence[Any]) -> list[Any]:
    layers = list(model._flatten_layers(include_self=False))
    chosen = []
    for one in wanted:
        matching = [layer for layer in layers if layer is one or layer.name == one]
        if len(matching) != 1:
            how_many = f"{len(matching)} layers" if matching else "no layer"
            raise ValueError(f"model {model.name!r} has {how_many} {getattr(one, 'name', one)!r}.")
        chosen += matching
    return chosen


def _unsharded(groups: Iterable[Group]) -> list[Group]:
    for group in groups:
        for part in group.slices:
            if is_sharded(part.variable):
                raise ValueError(
                    f"{path_of(part.variable)} is divided over the tensor ranks of the mesh, and "
                    "a rank that sees a shard can't choose what is pruned: prune the model without "
                    "a mesh."
                )
    return list(groups)


def _require_unsharded_model(model: Any) -> None:
    if any(isinstance(layer, PipelineModel) for layer in model._flatten_layers()):
        raise ValueError(
            f"model {model.name!r} is divided over pipeline ranks, of which none sees all layers: "
            "prune the model without stages."
        )
