"""A student that has some of the blocks of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.compress.blocks import repeated_blocks
from hvdkit.compress.copies import plain_model
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import Step
from hvdkit.graph.rebuild import model_like, replay, undrawn
from hvdkit.state import outside_variables
from hvdkit.state.keepers import read_layer, write_layer


def student_of(teacher: keras.Model, keep: Sequence[int] | None = None) -> keras.Model:
    """Make a student of some of a teacher's blocks, with their weights (DistilBERT, 1910.01108).

    A teacher whose middle is a row of blocks alike, such as the layers of a transformer, each of
    which makes one tensor of another of the same shape, gives a student with every second of them,
    and with all that is before and after. The blocks are found by themselves: one layer each (such
    as KerasHub's `TransformerEncoder`), or several. Nested models are taken apart.

    Args:
        teacher: a built functional or Sequential model.
        keep: the positions of the blocks that stay, from 0; None for 0, 2, 4, ...

    Returns:
        A functional model, not compiled, with weights of its own that are the teacher's.

    Raises:
        ValueError: the teacher is no graph of layers, repeats no blocks, or `keep` names none of
            them, or one that it does not have.

    Example:
        >>> student = hvd.compress.student_of(teacher)
        >>> distiller = hvd.compress.Distiller(teacher, student)
    """
    plain = plain_model(teacher)
    with undrawn():
        sequence = flattened(plain)
        blocks = repeated_blocks(sequence)
        if not blocks:
            raise ValueError(
                f"model {teacher.name!r} has no row of blocks alike, of which some could be left "
                "out: build the student by hand, and copy weights with set_weights."
            )
        stay = set(range(0, len(blocks), 2) if keep is None else keep)
        if not stay or not stay <= set(range(len(blocks))):
            raise ValueError(
                f"model {teacher.name!r} has the blocks 0 to {len(blocks) - 1}, and keep names "
                f"some of them, not {sorted(stay)}."
            )
        left_out = [block for i, block in enumerate(blocks) if i not in stay]
        skipped = {id(step) for block in left_out for step in block.steps}
        ends = {id(block.steps[-1]): block for block in left_out}
        copies = _Copies()

        def between(inputs: list[Any]) -> list[Any]:
            tensors = {id(old): new for old, new in zip(sequence.inputs, inputs, strict=True)}
            for step in sequence.steps:
                if id(step) not in skipped:
                    replay(step, tensors, copies.of(step))
                elif block := ends.get(id(step)):
                    tensors[id(block.end)] = tensors[id(block.start)]
            return [tensors[id(t)] for t in sequence.outputs]

        student = model_like(sequence, between)
    copies.take_over()
    outside_variables.renew(student)
    return student


class _Copies:
    """New layers in the place of those of a model, each with a name that no other has."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}
        self._names: set[str] = set()

    def of(self, step: Step) -> Any:
        """The layer or operation that stands for a step's own."""
        old = step.operation
        if id(old) not in self._made:
            self._made[id(old)] = old, self._copy(old)
        return self._made[id(old)][1]

    def take_over(self) -> None:
        """Give the new layers the weights, and what they keep besides, of the old ones."""
        for old, new in self._made.values():
            if not isinstance(old, keras.layers.Layer):
                continue
            new.set_weights(old.get_weights())
            for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
                write_layer(other, read_layer(one))

    def _copy(self, old: Any) -> Any:
        if isinstance(old, keras.Model):
            new = keras.models.clone_model(old)
        else:
            new = type(old).from_config(old.get_config())
        name, count = old.name, 0
        while name in self._names:
            count += 1
            name = f"{old.name}_{count}"
        self._names.add(name)
        new.name = name
        return new
