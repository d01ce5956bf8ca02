"""What a `tf.data.Dataset` holds, as far as that can be seen without changing what it gives.

Looked at are the tensors it was made from, the numbers that choose its rows, and the first
elements where reading them does nothing besides: before a shuffle, whose buffer would have to be
filled; before a `map` that draws random numbers, since the rows are the same where the ranks draw
others; and never a Python generator, which may be read once only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.data.contents import Content, Fact, sample_of
from hvdkit.data.lineage import Operation, Step, steps_of, tensors_of
from hvdkit.data.source import without_autotuning

_PEEKED_ELEMENTS = 8

# What chooses rows, or puts them together, by numbers that Python knows.
_ARGUMENTS = {
    "Shard": ("_num_shards", "_index"),
    "Skip": ("_count",),
    "Take": ("_count",),
    "Repeat": ("_count",),
    "Shuffle": ("_buffer_size",),
    "Batch": ("_batch_size", "_drop_remainder"),
    "ParallelBatch": ("_batch_size", "_drop_remainder"),
    "PaddedBatch": ("_batch_size", "_drop_remainder"),
    "Range": ("_start", "_stop", "_step"),
}
# Reading the first elements of these fills buffers or files, or gives others the next time.
_NOT_READ = ("Shuffle", "Random", "Cache", "Snapshot", "Save", "DataService", "Generator")
# Their inputs are read instead, of which less has to be made.
_READ_BEFORE = ("Batch", "ParallelBatch", "PaddedBatch", "MapAndBatch", "Prefetch")
_HARMLESS = ("Assert", "ReadVariableOp", "DummySeedGenerator", "LookupTable", "HashTable")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_KEEP_ROWS = ("Map", "ParallelMap")

_SHARD_REMEDY = (
    "hvd.shard divides the data by itself: give it the dataset without .shard(...), .skip(...) or "
    ".take(...) that depend on the rank"
)


@dataclass(frozen=True)
class Peek:
    """What is known of a dataset.

    Attributes:
        contents: to be compared with what other ranks know of theirs.
        functions: what tells the functions of the dataset from others, such as filters.
        complete: whether nothing of it is hidden, as what a Python generator gives.
        draws: whether a `map` may draw random numbers.
    """

    contents: list[Content]
    functions: str
    complete: bool
    draws: bool


def peek(dataset: tf.data.Dataset) -> Peek:
    """Find out what a dataset holds; it gives the same afterwards as it would have given before.

    Args:
        dataset: any dataset.
    """
    steps = steps_of(dataset)
    contents: list[Content] = [
        Fact(f"the dataset's .{step.kind.lower()}()", _arguments(step), _remedy(step))
        for step in steps
        if step.kind in _ARGUMENTS
    ]
    for step in steps:
        tensors = [tensor for tensor in tensors_of(step.dataset) if tensor.shape.rank]
        contents += [sample_of(tensor, "the dataset's tensor") for tensor in tensors]
    for step in _readable(steps):
        if tensors_of(step.dataset):
            continue  # they have been looked at
        contents += _first_elements(step.dataset)
    functions = hashlib.blake2b(digest_size=8)
    for step in steps:
        for value in _function_values(step):
            functions.update(value)
    return Peek(
        contents,
        functions.hexdigest(),
        complete=not any(map(_hides_rows, steps)),
        draws=any(step.kind in _KEEP_ROWS and not _is_readable(step) for step in steps),
    )


def _remedy(step: Step) -> str | None:
    return _SHARD_REMEDY if step.kind in ("Shard", "Skip", "Take") else None


def _arguments(step: Step) -> tuple[Any, ...]:
    found = [getattr(step.dataset, name, None) for name in _ARGUMENTS[step.kind]]
    return tuple(_number(value) for value in found)


def _number(value: Any) -> Any:
    if isinstance(value, tf.Tensor):
        value = tf.get_static_value(value)
    return np.asarray(value).tolist()


def _readable(steps: Sequence[Step]) -> list[Step]:
    """The last datasets whose first elements can be read."""
    readable: set[Step] = set()
    for step in steps:
        if _is_readable(step) and all(each in readable for each in step.inputs):
            readable.add(step)
    found: list[Step] = []
    waiting = [steps[-1]]
    while waiting:
        step = waiting.pop()
        if step not in readable or step.kind in _READ_BEFORE:
            waiting += step.inputs
        elif step not in found:
            found.append(step)
    return found


def _is_readable(step: Step) -> bool:
    if any(name in step.kind for name in _NOT_READ):
        return False
    return all(_does_nothing_besides(operation) for operation in step.operations)


def _does_nothing_besides(operation: Operation) -> bool:
    kind = operation.kind
    if "Dataset" in kind:
        return not any(name in kind for name in _NOT_READ)
    return not operation.is_stateful() or kind in _CALLS or kind.startswith(_HARMLESS)


def _hides_rows(step: Step) -> bool:
    kinds = [operation.kind for operation in step.operations]
    if any("GeneratorDataset" in kind for kind in kinds) or "DataService" in step.kind:
        return True
    return step.kind not in _KEEP_ROWS and any("PyFunc" in kind for kind in kinds)


def _function_values(step: Step) -> Iterator[bytes]:
    """What tells functions apart, such as the filters of two ranks; not the seeds they draw by."""
    for operation in step.operations:
        if operation.seeds() is None:
            yield operation.value()
    for function in step.dataset._functions():
        for captured in function.function.captured_inputs:
            if captured.dtype not in (tf.variant, tf.resource) and captured.shape.rank == 0:
                yield repr(_number(captured)).encode()


def _first_elements(dataset: tf.data.Dataset) -> Iterator[Content]:
    if _holds_datasets(dataset):
        return
    name, count, error = "the dataset's first elements", 0, None
    found: list[Content] = []
    try:
        for element in without_autotuning(dataset.take(_PEEKED_ELEMENTS)):
            parts = tf.nest.flatten(element, expand_composites=True)
            found += [
                sample_of(
                    np.asarray(part.numpy())[np.newaxis],
                    f"element {count} of the dataset, part {i}",
                )
                for i, part in enumerate(parts)
            ]
            count += 1
    except tf.errors.OpError as raised:
        # Whoever reads the data gets this error, too; here it counts if the ranks differ by it.
        error = type(raised).__name__
    yield Fact(name, f"{count}, and then {error}" if error else count)
    yield from found


def _holds_datasets(dataset: tf.data.Dataset) -> bool:
    specs = tf.nest.flatten(dataset.element_spec)
    return any(isinstance(spec, (tf.data.DatasetSpec, tf.OptionalSpec)) for spec in specs)
