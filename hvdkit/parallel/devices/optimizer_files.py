"""Files of models hold the state of an optimizer as if no layer were divided over devices.

To an optimizer each piece of a divided layer is a variable with slots of its own. A file has the
slots of the undivided weights in their place, so it loads with any number of devices.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from hvdkit.parallel.devices.optimizer_placement import slot_of
from hvdkit.parallel.devices.shards import piece_of
from hvdkit.patches import Patch


@dataclass
class _Plain:
    """A variable that belongs to no divided layer."""

    variable: Any
    count = 1

    def values(self) -> list[np.ndarray]:
        """Its value."""
        return [keras.ops.convert_to_numpy(self.variable)]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """The opposite of `values`."""
        self.variable.assign(values[0])


@dataclass
class _Slots:
    """The slots of one kind, such as Adam's momentums, for all weights of a divided layer."""

    layer: Any
    variables: dict[tuple[int, int], Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many weights the undivided layer has: those of a piece, and the joiner's."""
        piece, *_, joiner = self.layer.holders()
        return len(piece.weights) + len(joiner.weights)

    def values(self) -> list[np.ndarray]:
        """Those of the undivided weights."""
        parts: list[list[np.ndarray]] = [[] for _ in self.layer.holders()]
        for (part, _), variable in sorted(self.variables.items(), key=lambda item: item[0]):
            parts[part].append(keras.ops.convert_to_numpy(variable))
        return list(self.layer.merge(parts))

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """The opposite of `values`."""
        divided = self.layer.divide(list(values))
        for (part, position), variable in self.variables.items():
            variable.assign(divided[part][position])


def save(original: Callable[..., Any], optimizer: Any, store: Any) -> None:
    """Save the state as if no layer were divided."""
    entries = _entries(optimizer)
    if not any(isinstance(entry, _Slots) for entry in entries):
        original(optimizer, store)
        return
    for i, value in enumerate(value for entry in entries for value in entry.values()):
        store[str(i)] = value


def load(original: Callable[..., Any], optimizer: Any, store: Any) -> None:
    """Load a state that was saved with any number of devices."""
    entries = _entries(optimizer)
    if not any(isinstance(entry, _Slots) for entry in entries):
        original(optimizer, store)
        return
    expected = sum(entry.count for entry in entries)
    if len(store.keys()) != expected:
        warnings.warn(
            f"The optimizer {optimizer.name!r} starts without the saved state: that has "
            f"{len(store.keys())} variables, and this optimizer {expected}.",
            stacklevel=2,
        )
        return
    position = 0
    for entry in entries:
        stop = position + entry.count
        entry.assign([np.asarray(store[str(i)]) for i in range(position, stop)])
        position = stop


_FILES = "files hold slots as if no layer were divided over devices"

PATCHES = (
    Patch(keras.optimizers.Optimizer, "save_own_variables", save, _FILES),
    Patch(keras.optimizers.Optimizer, "load_own_variables", load, _FILES),
)


def _entries(optimizer: Any) -> list[_Plain | _Slots]:
    """The optimizer's variables; slots of a divided layer together, where the first of them is."""
    entries: list[_Plain | _Slots] = []
    slots: dict[tuple[int, int], _Slots] = {}
    kinds: Counter[int] = Counter()
    for variable in optimizer.variables:
        weight = slot_of(variable)
        piece = piece_of(weight)
        if piece is None:
            entries.append(_Plain(variable))
            continue
        kind = kinds[id(weight)]
        kinds[id(weight)] += 1
        key = id(piece.layer), kind
        if key not in slots:
            slots[key] = _Slots(piece.layer)
            entries.append(slots[key])
        slots[key].variables[piece.part, piece.position] = variable
    return entries
