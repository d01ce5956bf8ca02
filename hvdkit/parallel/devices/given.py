"""What a split model keeps of the model that was given, and what becomes of that one."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from inspect import getattr_static
from typing import Any

import keras

from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.graph.rebuild import ends_like
from hvdkit.keras_internals import Functional, is_of_keras
from hvdkit.parallel.devices.layer_split import LayerSplit

_FUNCTIONS = ("train_function", "test_function", "predict_function")
# What Keras notes in a model that is compiled and trained.
_KERAS_LATER = ("optimizer", "history", "stop_training", "_compile_config")
# Models whose functions may have been traced with variables where they lay before.
_users: weakref.WeakSet[Any] = weakref.WeakSet()


def require_no_own_methods(model: Any) -> None:
    """Refuse a Sequential model with methods of its own, which would be lost.

    Raises:
        ValueError: it names them.
    """
    if not isinstance(model, keras.Sequential):
        return
    own = [
        name
        for name in dir(keras.Sequential)
        if not name.startswith("_")
        and getattr_static(type(model), name) is not getattr_static(keras.Sequential, name)
    ]
    if own:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) is a Sequential model with its own "
            f"{', '.join(own)}, which the split model, a functional one, would lose. Derive the "
            "class from keras.Model and give it inputs and outputs."
        )


def split_like(model: Any, sequence: LayerSequence, layer: LayerSplit) -> keras.Model:
    """A functional model of another one's class, with its attributes and names of outputs.

    Args:
        model: the other model.
        sequence: its sequence.
        layer: computes its list of outputs from the list of its inputs.
    """

    def between(inputs: list[Any]) -> list[Any]:
        outputs = layer(inputs)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    inputs, outputs = ends_like(sequence, between)
    of_keras = is_of_keras(type(model), "models")
    if of_keras and not layer.shares_weights:
        split = keras.Model(inputs, outputs, name=sequence.name)
    else:
        split = _saved_unsplit(model, Functional if of_keras else type(model), inputs, outputs)
    split.dtype_policy = model.dtype_policy
    split.output_names = list(getattr(model, "_functional", model).output_names)
    return split


def give_away(model: Any, split: Any, layer: LayerSplit) -> None:
    """Note that two models share variables, which have just been moved.

    Functions that were traced before would use the variables where they were.

    Args:
        model: the model that was given; it can't be trained any more if what its weights add to
            the loss is computed elsewhere now.
        split: the split one.
        layer: the `LayerSplit` in it.
    """
    moved = {id(variable) for variable in layer.variables}
    _users.update(m for m in model._flatten_layers() if isinstance(m, keras.Model))
    for user in _users:
        if any(id(variable) in moved for variable in user.variables):
            for name in _FUNCTIONS:
                setattr(user, name, None)
    _users.add(split)
    if layer.has_penalties:
        vars(model)["make_train_function"] = _refusal(model.name)


class _SavedUnsplit:
    """A split model whose files are those of the unsplit model, which has the same weights."""

    _unsplit: Any

    def save(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Write the unsplit model."""
        self._unsplit.save(filepath, *args, **options)

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Write the weights of the unsplit model."""
        self._unsplit.save_weights(filepath, *args, **options)

    def load_weights(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Read weights of the unsplit model."""
        self._unsplit.load_weights(filepath, *args, **options)


def _saved_unsplit(model: Any, kind: type, inputs: Any, outputs: Any) -> Any:
    """A functional model of a class, made without its `__init__`, with another one's attributes."""
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    split_kind: Any = type(kind.__name__, (_SavedUnsplit, kind), names)
    split = split_kind.__new__(split_kind)
    Functional.__init__(split, inputs, outputs, name=model.name)
    keras_own = {*vars(split), *_KERAS_LATER}
    for name, value in vars(model).items():
        if kind is not Functional and name not in keras_own:
            setattr(split, name, value)
    vars(split)["_unsplit"] = model
    return split


def _refusal(name: str) -> Callable[..., None]:
    def make_train_function(force: bool = False) -> None:
        raise ValueError(
            f"model {name!r} was given to hvd.parallel.split, and weights of it have regularizers, "
            "whose losses the split model computes on their devices. Train the model that split "
            "returned, or use copy=True."
        )

    return make_train_function
