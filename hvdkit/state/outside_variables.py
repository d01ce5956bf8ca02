"""State that layers keep outside of variables.

There are two kinds. Constants that a layer computes with, made from its variables: they are made
anew by `renew` after somebody has written the variables (`keras.layers.Normalization`, and every
layer that has a `finalize_state()`). And state that no variable holds: vocabularies of lookup
layers, boundaries of bins, and what a layer of one's own gives to Keras's `save_own_variables` and
`save_assets`. `read` and `write` move it between models that have the same layers.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from keras.src.layers.preprocessing.index_lookup import IndexLookup

LayerState = Any
"""What one layer keeps outside of variables: plain data that can be pickled; None for nothing."""


class _Keeper(Protocol):
    """Knows what layers of one kind keep."""

    def keeps(self, layer: Any) -> bool:
        """Whether the layer is of this kind."""
        ...

    def read(self, layer: Any) -> LayerState:
        """What it keeps now."""
        ...

    def write(self, layer: Any, state: LayerState) -> None:
        """Let it keep what `read` returned for another one."""
        ...


class _Vocabulary:
    """StringLookup, IntegerLookup, and the lookup inside a TextVectorization."""

    def keeps(self, layer: Any) -> bool:
        """See `_Keeper`."""
        return isinstance(layer, IndexLookup)

    def read(self, layer: Any) -> LayerState:
        """The tokens, and their weights."""
        if int(layer.lookup_table.size()) == 0:
            return None
        tokens = np.asarray(layer.get_vocabulary()).tolist()
        weights = getattr(layer, "idf_weights_const", None)
        # Behind the tokens it may be padded with zeros.
        return tokens, None if weights is None else weights.numpy()[: len(tokens)].tolist()

    def write(self, layer: Any, state: LayerState) -> None:
        """See `_Keeper`."""
        tokens, weights = state
        layer._frozen_vocab_size = None  # another vocabulary may have another size
        layer.set_vocabulary(tokens, weights)
        if layer.input_vocabulary is not None:  # what get_config tells
            layer.input_vocabulary, layer.input_idf_weights = tokens, weights


class _Attributes:
    """Layers that keep something in attributes.

    Args:
        kind: the layer's class.
        names: of the attributes.
    """

    def __init__(self, kind: type, *names: str) -> None:
        self._kind = kind
        self._names = names

    def keeps(self, layer: Any) -> bool:
        """See `_Keeper`."""
        return isinstance(layer, self._kind)

    def read(self, layer: Any) -> LayerState:
        """The attributes by name."""
        values = {name: getattr(layer, name) for name in self._names}
        # Keras keeps lists in a class of its own, which can't be pickled.
        return {name: list(v) if isinstance(v, list) else v for name, v in values.items()}

    def write(self, layer: Any, state: LayerState) -> None:
        """See `_Keeper`."""
        for name, value in state.items():
            setattr(layer, name, value)


class _Saved:
    """Layers of others that say by Keras's methods for saving what they keep.

    Of what `save_own_variables` stores, variables are left out: a rank may keep its own.
    """

    def keeps(self, layer: Any) -> bool:
        """See `_Keeper`."""
        return any(_is_overridden(layer, name) for name in ("save_own_variables", "save_assets"))

    def read(self, layer: Any) -> LayerState:
        """What is stored beside variables, and the files."""
        stored = {
            name: np.asarray(value)
            for name, value in _stored(layer).items()
            if not isinstance(value, keras.Variable)
        }
        files: dict[str, bytes] = {}
        if _is_overridden(layer, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
                files = {str(path.relative_to(folder)): path.read_bytes() for path in found}
        return (stored, files) if stored or files else None

    def write(self, layer: Any, state: LayerState) -> None:
        """See `_Keeper`."""
        stored, files = state
        if stored:
            own = {name: np.asarray(value) for name, value in _stored(layer).items()}
            layer.load_own_variables({**own, **stored})
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                layer.load_assets(folder)


_KEEPERS: tuple[_Keeper, ...] = (
    _Vocabulary(),
    _Attributes(keras.layers.Discretization, "bin_boundaries", "summary"),
    _Attributes(keras.utils.FeatureSpace, "_is_adapted"),
    _Saved(),
)
# Their finalize_state() makes state of what `adapt` has seen, not of variables.
_ADAPTED = (IndexLookup, keras.layers.TextVectorization, keras.layers.Discretization)


def renew(model: Any) -> bool:
    """Make the constants anew that layers compute with, after their variables were written.

    Graphs that were traced before hold the old ones.

    Args:
        model: a model, or a layer.

    Returns:
        Whether there is a layer with such constants.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if layer.built
        and not isinstance(layer, _ADAPTED)
        and callable(getattr(layer, "finalize_state", None))
    ]
    for layer in layers:
        layer.finalize_state()
    return bool(layers)


def read(model: Any) -> list[LayerState]:
    """What the layers of a model keep outside of variables.

    Args:
        model: a model, or a layer.

    Returns:
        For each layer, in Keras's order, what it keeps; None for nothing.
    """
    return [_read(layer) for layer in model._flatten_layers()]


def write(model: Any, states: Sequence[LayerState]) -> None:
    """Let the layers of a model keep what those of another one keep, and `renew` it.

    A layer that keeps nothing there is left as it is here.

    Args:
        model: a model, or a layer, with the same layers.
        states: what `read` returned.

    Raises:
        ValueError: the models have different numbers of layers.
    """
    layers = list(model._flatten_layers())
    if len(layers) != len(states):
        raise ValueError(
            f"{model.name!r} has {len(layers)} layers, and the states are of {len(states)}."
        )
    for layer, state in zip(layers, states, strict=True):
        keeper = _keeper_of(layer)
        if (
            state is not None
            and keeper is not None
            and _digest(keeper.read(layer)) != _digest(state)
        ):
            keeper.write(layer, state)
    renew(model)


def holders(model: Any) -> list[str]:
    """The names of the layers that keep something outside of variables."""
    return [layer.name for layer in model._flatten_layers() if _read(layer) is not None]


def fingerprints(model: Any) -> list[str]:
    """A text for each layer that computes with something outside of variables.

    Two models with equal variables and equal texts compute the same.
    """
    texts = []
    for layer in model._flatten_layers():
        kept = _read(layer), [np.asarray(c).tolist() for c in _constants(layer)]
        if kept != (None, []):
            texts.append(f"{_digest(kept)} outside of the variables of {type(layer).__name__}")
    return texts


def _keeper_of(layer: Any) -> _Keeper | None:
    return next((keeper for keeper in _KEEPERS if keeper.keeps(layer)), None)


def _read(layer: Any) -> LayerState:
    keeper = _keeper_of(layer)
    return None if keeper is None else keeper.read(layer)


def _constants(layer: Any) -> Iterable[Any]:
    """The constants of Keras's one layer that has some."""
    if isinstance(layer, keras.layers.Normalization) and layer.built:
        yield layer.mean
        yield layer.variance


def _is_overridden(layer: Any, name: str) -> bool:
    method = getattr(type(layer), name, None)
    return method is not None and not method.__module__.startswith("keras.src.")


def _stored(layer: Any) -> dict[str, Any]:
    if not _is_overridden(layer, "save_own_variables") or not layer.built:
        return {}
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    return store


def _digest(value: Any) -> str:
    """A checksum of plain data and arrays, the same on every rank for what is equal."""
    checksum = hashlib.sha256()

    def feed(part: Any) -> None:
        if isinstance(part, Mapping):
            feed(sorted(part.items()))
        elif isinstance(part, (list, tuple)):
            checksum.update(f"[{len(part)}".encode())
            for one in part:
                feed(one)
        elif isinstance(part, np.ndarray):
            checksum.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            checksum.update(repr(part).encode() + b";")

    feed(value)
    return checksum.hexdigest()[:16]
