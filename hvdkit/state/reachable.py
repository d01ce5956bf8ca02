"""Everything that a model that is trained can reach: more models, and more optimizers.

A model of one's own may hold several, such as the two of a GAN, of which Keras's `fit` knows one or
none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.keras_internals import has_keras_call, is_of_keras
from hvdkit.optimizers.composition import is_distributed

COMPILED = "optimizer"
"""The name of the optimizer that was given to `compile`."""


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

    def __str__(self) -> str:
        return f"{self.name} ({type(self.optimizer).__name__})"


def optimizers_of(model: Any, given: Any = None) -> list[FoundOptimizer]:
    """All optimizers that a model holds, each once; `model.optimizer` comes first.

    They are attributes of the model, or of a model or layer inside it, alone or in lists, tuples
    and dictionaries. An optimizer inside another one (loss scaling, `MultiOptimizer`) is a part of
    that, and not found by itself.

    Args:
        model: a model.
        given: an optimizer, or a list, tuple or dictionary of them, that the model need not hold;
            they come before the others, under the names "optimizer", "optimizer[0]",
            "optimizer['d']", and `model.optimizer` is then "model.optimizer".
    """
    found: dict[int, FoundOptimizer] = {}

    def add(name: str, optimizer: Any) -> None:
        if id(optimizer) not in found:
            taken = any(one.name == name for one in found.values())
            found[id(optimizer)] = FoundOptimizer(f"model.{name}" if taken else name, optimizer)

    for where, optimizer in _optimizers_in(given, COMPILED):
        add(where, optimizer)
    first = set(found)
    compiled = getattr(model, "optimizer", None)
    if isinstance(compiled, keras.optimizers.Optimizer):
        add(COMPILED, compiled)
    for path, holder in _holders(model, "", set()):
        for name, value in vars(holder).items():
            if name in _bookkeeping() or name.startswith("_self_"):  # TensorFlow's
                continue
            for where, optimizer in _optimizers_in(value, f"{path}{name}"):
                add(where, optimizer)
    return _without_inner(list(found.values()), first)


def leading_optimizer(model: Any, given: Any = None) -> Any:
    """The optimizer that says over which ranks a model is trained: the first distributed one.

    Where none is distributed it is the first one, which is `model.optimizer`; or None.

    Args:
        model: a model.
        given: more optimizers, as in `optimizers_of`.
    """
    return leading(optimizers_of(model, given))


def leading(found: Sequence[FoundOptimizer]) -> Any:
    """The one of some optimizers that `leading_optimizer` names."""
    optimizers = [one.optimizer for one in found]
    return next((one for one in optimizers if is_distributed(one)), next(iter(optimizers), None))


def steps_by_itself(model: Any) -> bool:
    """Whether a model has a training step of its own, so that nobody knows what it trains."""
    step = getattr(type(model), "train_step", None)
    return not getattr(step, "__module__", "").startswith(("keras.", "hvdkit."))


def has_variables(model: Any) -> bool:
    """Whether a model has all the variables that it will train.

    A model without `call`, as in Keras's guide to GANs, is never built itself: the models inside
    it are. A layer that no step uses is never built either; see `has_been_traced`.
    """
    if vars(model).get("_hvdkit_traced") or _is_functional(model):
        return True
    return not any(map(_will_make_variables, model._flatten_layers()))


def has_been_traced(model: Any) -> None:
    """Note that a training step was traced or run: what is not built now is not used."""
    vars(model)["_hvdkit_traced"] = True


def _is_functional(model: Any) -> bool:
    """Whether a model's layers were all called when it was made, and its steps call no others."""
    if not model.built or not has_keras_call(model) or steps_by_itself(model):
        return False
    # A recurrent layer calls its cell later: of a cell of one's own, the layers are built then.
    inside = (inner for layer in model.layers for inner in layer._flatten_layers())
    return not any(map(_will_make_variables, inside))


def _will_make_variables(layer: Any) -> bool:
    """Whether a layer will make variables of its own, and not only the layers inside it."""
    build = type(layer).build
    if isinstance(layer, keras.Model):
        of_keras = is_of_keras(build)
    else:  # as Keras marks the method of its base class
        of_keras = getattr(build, "_is_default", False)
    return not layer.built and not of_keras


@functools.cache
def _bookkeeping() -> frozenset[str]:
    """The attributes that any model of Keras has; some are long lists."""
    inputs = keras.Input((1,), name="hvdkit")
    # Keras 3.13 wants a layer between the two.
    outputs = keras.layers.Identity(name="between")(inputs)
    models = [keras.Model(inputs, outputs, name="hvdkit"), keras.Sequential(name="hvdkit")]
    return frozenset(name for model in models for name in vars(model)) - {COMPILED}


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
    for position, layer in enumerate(holder._layers):
        yield from _holders(layer, f"{path}layers[{position}].", seen)


def _optimizers_in(value: Any, path: str, depth: int = 4) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.optimizers.Optimizer):
        yield path, value
    elif isinstance(value, Mapping) and depth:
        for key, item in value.items():
            yield from _optimizers_in(item, f"{path}[{key!r}]", depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for position, item in enumerate(value):
            yield from _optimizers_in(item, f"{path}[{position}]", depth - 1)


def _without_inner(found: list[FoundOptimizer], kept: set[int]) -> list[FoundOptimizer]:
    inner = {
        id(value)
        for one in found
        for name in ("inner_optimizer", "optimizers")
        for _, value in _optimizers_in(getattr(one.optimizer, name, None), "")
    }
    return [one for one in found if id(one.optimizer) not in inner or id(one.optimizer) in kept]
