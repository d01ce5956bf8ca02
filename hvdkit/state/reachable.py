"""Everything that a model that is trained can reach: more models, and more optimizers.

A model of one's own may hold several, such as the two of a GAN, of which Keras's `fit` knows one or
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class FoundOptimizer:
    """An optimizer, and where it was found.

    Attributes:
        name: the attribute, as a user would write it after the model: "optimizer", "critic.adam",
            "optimizers['d']".
        optimizer: the optimizer.
    """

    name: str
    optimizer: Any


def optimizers_of(model: Any) -> list[FoundOptimizer]:
    """All optimizers that a model holds, each once; `model.optimizer` comes first.

    They are attributes of the model, or of a model or layer inside it, alone or in lists, tuples
    and dictionaries. An optimizer inside another one (loss scaling, `MultiOptimizer`) is a part of
    that, and not found by itself.

    Args:
        model: a model.
    """
    found: dict[int, FoundOptimizer] = {}
    compiled = getattr(model, "optimizer", None)
    if compiled is not None:
        found[id(compiled)] = FoundOptimizer("optimizer", compiled)
    for path, holder in _holders(model, "", set()):
        for name, value in vars(holder).items():
            if name.startswith("_") and isinstance(value, (list, tuple, Mapping)):
                continue  # Keras's own bookkeeping
            for place, optimizer in _optimizers_in(value, f"{path}{name}"):
                found.setdefault(id(optimizer), FoundOptimizer(place, optimizer))
    return _without_inner(list(found.values()))


def _holders(holder: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A model or layer and those inside it, with how they are reached."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    yield path, holder
    inner = {id(layer) for layer in holder._layers}
    for name, value in vars(holder).items():
        if id(value) in inner:
            yield from _holders(value, f"{path}{name}.", seen)
    for layer in holder._layers:
        yield from _holders(layer, f"{path}{layer.name}.", seen)


def _optimizers_in(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.optimizers.Optimizer):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _optimizers_in(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _optimizers_in(item, f"{path}[{position}]")


def _without_inner(found: list[FoundOptimizer]) -> list[FoundOptimizer]:
    inner = {
        id(value)
        for one in found
        for name in ("inner_optimizer", "optimizers")
        for _, value in _optimizers_in(getattr(one.optimizer, name, None), "")
    }
    return [one for one in found if id(one.optimizer) not in inner]
