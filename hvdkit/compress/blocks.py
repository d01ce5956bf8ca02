"""The blocks that a model repeats: the layers of a transformer, the cells of a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.graph.layer_sequence import LayerSequence, Step

# What layers of the same kind may have of their own.
_OWN = {"name", "seed", "registered_name", "build_config", "shared_object_id"}


@dataclass(frozen=True)
class Block:
    """One of several blocks of a model that are alike.

    Attributes:
        steps: the calls of its layers, in order.
        start: the tensor that it takes from the block before it.
        end: the tensor that it makes of it, of the same shape.
    """

    steps: tuple[Step, ...]
    start: Any
    end: Any


def repeated_blocks(sequence: LayerSequence) -> list[Block]:
    """The longest row of blocks in a model that have the same layers and follow each other.

    Args:
        sequence: of the model.

    Returns:
        The blocks; none where nothing is repeated.
    """
    kinds = [_kind_of(step) for step in sequence.steps]
    best: list[Block] = []
    for period in range(1, len(kinds) // 2 + 1):
        for begin, end in _stretches(kinds, period):
            found = _aligned(sequence, period, begin, end)
            if sum(len(b.steps) for b in found) > sum(len(b.steps) for b in best):
                best = found
    return best


def _stretches(kinds: Sequence[str], period: int) -> list[tuple[int, int]]:
    """Where kinds repeat with a period at least once: first step, and the one after the last."""
    same = [a == b for a, b in zip(kinds, kinds[period:], strict=False)]
    stretches, begin = [], None
    for i, one in enumerate([*same, False]):
        if one and begin is None:
            begin = i
        elif not one and begin is not None:
            if i - begin >= period:
                stretches.append((begin, i + period))
            begin = None
    return stretches


def _aligned(sequence: LayerSequence, period: int, begin: int, end: int) -> list[Block]:
    """The blocks of a stretch, from the first step at which one tensor alone is made of one."""
    for first in range(begin, begin + period):
        points = list(range(first, end + 1, period))
        crossing = [sequence.crossing(point) for point in points]
        blocks: list[Block] = []
        for i, point in enumerate(points[:-1]):
            given = [blocks[-1].end] if blocks else crossing[i]
            steps = sequence.steps[point : point + period]
            block = _between(steps, given, crossing[i], crossing[i + 1])
            if block is None:
                break
            blocks.append(block)
        else:
            if len(blocks) > 1:
                return blocks
    return []


def _between(
    steps: Sequence[Step], given: Sequence[Any], before: Sequence[Any], after: Sequence[Any]
) -> Block | None:
    """The steps as a block, if they make one tensor and use up one of those given, like it.

    Others that go in, such as masks, were there before the first block.
    """
    old, new = {id(t) for t in before}, {id(t) for t in after}
    ends = [t for t in after if id(t) not in old]
    if len(ends) != 1:
        return None
    (end,) = ends
    like_it = [t for t in given if (t.shape, t.dtype) == (end.shape, end.dtype)]
    starts = [t for t in like_it if id(t) not in new]
    return Block(tuple(steps), starts[0], end) if len(starts) == 1 else None


def _kind_of(step: Step) -> str:
    """What a step's layer is and how it is set, without what is its own."""
    operation = step.operation
    kind = f"{type(operation).__module__}.{type(operation).__name__}"
    shapes = [tuple(variable.shape) for variable in getattr(operation, "weights", [])]
    if not isinstance(operation, keras.layers.Layer):
        return f"{kind} {[tuple(t.shape) for t in step.outputs]}"
    config = keras.saving.serialize_keras_object(operation)["config"]
    return f"{kind} {shapes} {json.dumps(_without_own(config), sort_keys=True, default=repr)}"


def _without_own(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: _without_own(v) for k, v in config.items() if k not in _OWN}
    if isinstance(config, (list, tuple)):
        return [_without_own(one) for one in config]
    return config
