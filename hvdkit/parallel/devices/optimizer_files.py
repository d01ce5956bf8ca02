"""Files of models hold the state of an optimizer as if no layer were sharded over devices.

To an optimizer each shard of a layer is a variable with slots of its own. A file has the slots of
the unsharded weights instead, so it loads with any number of devices.
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
from hvdkit.parallel.devices.shards import shard_of
from hvdkit.patches import Patch


@dataclass
class _Plain:
    """A variable that belongs to no sharded layer."""

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
    """The slots of one kind, such as Adam's momentums, for all weights of a sharded layer."""

    layer: Any
    variables: dict[tuple[int, int], Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many weights the unsharded layer has: those of a shard, and the joiner's."""
        shard, *_, joiner = self.layer.holders()
        return len(shard.weights) + len(joiner.weights)

    def values(self) -> list[np.ndarray]:
        """Those of the unsharded weights."""
        sharded: list[list[np.ndarray]] = [[] for _ in self.layer.holders()]
        for (holder, _), variable in sorted(self.variables.items(), key=lambda item: item[0]):
            sharded[holder].append(keras.ops.convert_to_numpy(variable))
        return list(self.layer.merge(sharded))

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """The opposite of `values`."""
        sharded = self.layer.shard(list(values))
        for (holder, position), variable in self.variables.items():
            variable.assign(sharded[holder][position])


def save(original: Callable[..., Any], optimizer: Any, store: Any) -> None:
    """Save the state as if no layer were sharded."""
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


_FILES = "files hold slots as if no layer were sharded over devices"

PATCHES = (
    Patch(keras.optimizers.Optimizer, "save_own_variables", save, _FILES),
    Patch(keras.optimizers.Optimizer, "load_own_variables", load, _FILES),
)


def _entries(optimizer: Any) -> list[_Plain | _Slots]:
    """The optimizer's variables; slots of a sharded layer together, where the first of them is."""
    entries: list[_Plain | _Slots] = []
    slots: dict[tuple[int, int], _Slots] = {}
    kinds: Counter[int] = Counter()
    for variable in optimizer.variables:
        weight = slot_of(variable)
        shard = shard_of(weight)
        if shard is None:
            entries.append(_Plain(variable))
            continue
        kind = kinds[id(weight)]
        kinds[id(weight)] += 1
        key = id(shard.layer), kind
        if key not in slots:
            slots[key] = _Slots(shard.layer)
            entries.append(slots[key])
        slots[key].variables[shard.holder, shard.position] = variable
    return entries
