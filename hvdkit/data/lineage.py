"""What a `tf.data.Dataset` is made of: the datasets it reads, and the operations of its functions.

Python knows the datasets and their inputs. What a function makes or captures is known to
TensorFlow's graphs only, and so is the order in which a parallel `interleave` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import gen_dataset_ops

# A graph holds the tensors that a dataset was made from; larger ones are not copied into it.
_LARGEST_GRAPH_BYTES = 64 * 2**20
_IGNORE_STATE = 1  # of ExternalStatePolicy: the graph is read, and never run


@dataclass(frozen=True)
class Operation:
    """An operation of a graph.

    Attributes:
        kind: TensorFlow's name of it, such as "ShuffleDatasetV3".
    """

    kind: str
    _node: Any
    _constants: Mapping[str, Any]

    def seeds(self) -> tuple[int | None, int | None] | None:
        """Its two seeds, None for one that is computed; None if it takes no seeds."""
        definition = op_def_registry.get(self.kind)
        if definition is None:
            return None
        if {"seed", "seed2"} <= {attribute.name for attribute in definition.attr}:
            return int(self._node.attr["seed"].i), int(self._node.attr["seed2"].i)
        names = [argument.name for argument in definition.input_arg]
        if not {"seed", "seed2"} <= set(names):
            return None
        return self._constant(names.index("seed")), self._constant(names.index("seed2"))

    def attribute(self, name: str) -> str | None:
        """The text of an attribute; None where it has none of this name."""
        return self._node.attr[name].s.decode() if name in self._node.attr else None

    def flag(self, name: str) -> bool:
        """Whether an attribute is true."""
        return name in self._node.attr and bool(self._node.attr[name].b)

    def is_stateful(self) -> bool:
        """Whether it does more than compute."""
        definition = op_def_registry.get(self.kind)
        return definition is not None and bool(definition.is_stateful)

    def value(self) -> bytes:
        """What tells it from another: its kind, and the value of a constant."""
        constant: bytes = self._node.attr["value"].tensor.SerializeToString()
        return self.kind.encode() + constant

    def _constant(self, position: int) -> int | None:
        tensor = self._constants.get(self._node.input[position].split(":")[0])
        return None if tensor is None else int(tf.make_ndarray(tensor))


@dataclass(frozen=True, eq=False)
class Step:
    """One dataset of those that another one is made of.

    Attributes:
        dataset: the dataset.
        inputs: what it reads.
        operations: those of its functions, and of the datasets that they capture.
    """

    dataset: tf.data.Dataset
    inputs: tuple[Step, ...]
    operations: tuple[Operation, ...]

    @property
    def kind(self) -> str:
        """The method of `tf.data.Dataset` that made it, such as "Shuffle" or "ParallelMap"."""
        name = type(self.dataset).__name__.strip("_")
        return name.removesuffix("V1").removesuffix("V2").removesuffix("Dataset")


def steps_of(dataset: tf.data.Dataset) -> list[Step]:
    """All datasets that a dataset is made of, each after those it reads; itself comes last."""
    steps: dict[int, Step] = {}
    waiting = [dataset]
    while waiting:
        current = waiting[-1]
        inputs = _inputs(current)
        missing = [each for each in inputs if id(each) not in steps]
        if missing:
            waiting.extend(missing)
            continue
        waiting.pop()
        if id(current) not in steps:
            read = tuple(steps[id(each)] for each in inputs)
            steps[id(current)] = Step(current, read, tuple(_operations(current)))
    return list(steps.values())


def tensors_of(dataset: tf.data.Dataset) -> list[tf.Tensor]:
    """The tensors that a dataset was made from, as by `from_tensor_slices`."""
    tensors = [t for t in getattr(dataset, "_tensors", []) if isinstance(t, tf.Tensor)]
    return [tensor for tensor in tensors if tensor.dtype not in (tf.variant, tf.resource)]


def _inputs(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """What a dataset reads: also what it does not name, such as the files of `TextLineDataset`."""
    held = [value for value in vars(dataset).values() if isinstance(value, tf.data.Dataset)]
    inputs = {id(each): each for each in [*dataset._inputs(), *held] if each is not dataset}
    return list(inputs.values())


def _operations(dataset: tf.data.Dataset) -> Iterator[Operation]:
    for function in dataset._functions():
        concrete = function.function
        yield from _in_graph(concrete.graph.as_graph_def())
        for captured in concrete.captured_inputs:
            if captured.dtype == tf.variant:
                yield from _in_variant(captured)
    name = type(dataset).__name__
    if name == "_VariantDataset" or ("ParallelInterleave" in name and _is_small(dataset)):
        yield from _in_variant(dataset._variant_tensor)


def _in_variant(variant: tf.Tensor) -> Iterator[Operation]:
    """The operations that made a dataset of which no Python object is left."""
    try:
        graph = gen_dataset_ops.dataset_to_graph_v2(
            variant, external_state_policy=_IGNORE_STATE, strip_device_assignment=True
        )
    except tf.errors.OpError:
        return  # no dataset, too large for a graph, or of a kind that has none
    yield from _in_graph(tf.compat.v1.GraphDef.FromString(graph.numpy()))


def _in_graph(graph: Any) -> Iterator[Operation]:
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        constants = {node.name: node.attr["value"].tensor for node in nodes if node.op == "Const"}
        for node in nodes:
            yield Operation(node.op, node, constants)


def _is_small(dataset: tf.data.Dataset) -> bool:
    waiting, size = [dataset], 0
    while waiting:
        current = waiting.pop()
        size += sum(int(tf.size(t)) * max(1, t.dtype.size) for t in tensors_of(current))
        waiting.extend(_inputs(current))
    return size <= _LARGEST_GRAPH_BYTES
