"""What layers keep outside of variables, and how it is read and written: one class for each kind.

What a layer keeps is handed on as arrays of numbers, by name: they can be compared, sent, and put
into a checkpoint alike.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import logger, topology
from hvdkit.keras_internals import is_of_keras
from hvdkit.state.arrays import (
    LENGTHS,
    Arrays,
    equal,
    is_number,
    leaves_folder,
    same,
    text_of,
    texts_in,
)


class Keeper(Protocol):
    """Knows what layers of one kind keep.

    Attributes:
        name: of the kind.
        costs: whether reading it may take long, as where files are written.
    """

    name: str
    costs: bool

    def keeps(self, layer: Any) -> bool:
        """Whether the layer is of this kind."""
        ...

    def read(self, layer: Any) -> Arrays:
        """What it keeps now; empty for nothing."""
        ...

    def write(self, layer: Any, state: Arrays) -> None:
        """Let it keep what `read` returned for another one."""
        ...


class Vocabulary:
    """StringLookup, IntegerLookup, and the lookup inside a TextVectorization."""

    name = "vocabulary"
    costs = False

    def __init__(self) -> None:
        # A table never changes: a layer that learns other tokens gets another table.
        self._known: weakref.WeakKeyDictionary[Any, Arrays] = weakref.WeakKeyDictionary()

    def keeps(self, layer: Any) -> bool:
        """See `Keeper`."""
        return isinstance(layer, (keras.layers.StringLookup, keras.layers.IntegerLookup))

    def read(self, layer: Any) -> Arrays:
        """The tokens in the order of their numbers, and their weights."""
        table = layer.lookup_table
        if table not in self._known:
            self._known[table] = _tokens(layer, table)
        state = dict(self._known[table])
        weights = getattr(layer, "idf_weights_const", None)
        if state and weights is not None:
            state["weights"] = weights.numpy()
        return state

    def write(self, layer: Any, state: Arrays) -> None:
        """See `Keeper`."""
        tokens = texts_in(state, "tokens") if "tokens" + LENGTHS in state else state["tokens"]
        layer._frozen_vocab_size = None  # another vocabulary may have another size
        with tf.device("CPU:0"):
            tensor = tf.constant(tokens, layer.vocabulary_dtype)
            layer.lookup_table = layer._lookup_table_from_tokens(tensor)
        layer._record_vocabulary_size()
        if "weights" in state:
            layer.idf_weights = tf.Variable(state["weights"], trainable=False)
            layer.idf_weights_const = layer.idf_weights.value()
        if layer.input_vocabulary is not None:  # what get_config tells
            start = layer._token_start_index()
            layer.input_vocabulary = layer.get_vocabulary(include_special_tokens=False)
            if "weights" in state:
                layer.input_idf_weights = state["weights"][start:].tolist()


def _tokens(layer: Any, table: Any) -> Arrays:
    if int(table.size()) == 0:
        return {}
    keys, values = table.export()
    tokens, numbers = (values, keys) if layer.invert else (keys, values)
    ordered = tokens.numpy()[np.argsort(numbers.numpy())]
    return dict(text_of("tokens", ordered) if ordered.dtype == object else [("tokens", ordered)])


class Bins:
    """Discretization."""

    name = "bins"
    costs = False

    def keeps(self, layer: Any) -> bool:
        """See `Keeper`."""
        return isinstance(layer, keras.layers.Discretization)

    def read(self, layer: Any) -> Arrays:
        """The boundaries, and what they were computed from."""
        if layer.bin_boundaries is None:
            return {}
        state = {"boundaries": np.asarray(layer.bin_boundaries, np.float64)}
        if layer.summary is not None:
            state["summary"] = np.asarray(layer.summary)
        return state

    def write(self, layer: Any, state: Arrays) -> None:
        """See `Keeper`."""
        layer.bin_boundaries = state["boundaries"].tolist()
        if "summary" in state:
            layer.summary = np.array(state["summary"])


class Adapted:
    """FeatureSpace: whether its features have been adapted."""

    name = "adapted"
    costs = False

    def keeps(self, layer: Any) -> bool:
        """See `Keeper`."""
        return isinstance(layer, keras.utils.FeatureSpace)

    def read(self, layer: Any) -> Arrays:
        """See `Keeper`."""
        return {"adapted": np.array(True)} if layer._is_adapted else {}

    def write(self, layer: Any, state: Arrays) -> None:
        """See `Keeper`."""
        layer._is_adapted = bool(state["adapted"])


class Stored:
    """What layers of others give to `save_own_variables`, besides their variables.

    Values of variables are left out: they are sent and compared as variables, or are each rank's
    own.
    """

    name = "stored"
    costs = False

    def keeps(self, layer: Any) -> bool:
        """See `Keeper`."""
        return is_overridden(layer, "save_own_variables")

    def read(self, layer: Any) -> Arrays:
        """See `Keeper`."""
        if not layer.built and not isinstance(layer, keras.Model):
            return {}
        variables = [*layer._trainable_variables, *layer._non_trainable_variables]
        own = [keras.ops.convert_to_numpy(v) for v in variables if is_number(v.dtype)]
        state: Arrays = {}
        for name, value in stored_by(layer).items():
            array = None if isinstance(value, (keras.Variable, tf.Variable)) else np.asarray(value)
            if array is None or any(same(array, one) for one in own):
                continue
            if array.dtype.kind in "OSU":
                state.update(text_of(name, array))
            elif is_number(array.dtype):
                state[name] = np.array(array)
        return state

    def write(self, layer: Any, state: Arrays) -> None:
        """See `Keeper`."""
        store = loadable(layer)
        for name in state:
            if not name.endswith(LENGTHS):
                store[name] = texts_in(state, name) if name + LENGTHS in state else state[name]
        layer.load_own_variables(store)


class Files:
    """What layers of others write in `save_assets`, such as tokenizers."""

    name = "files"
    costs = True

    def keeps(self, layer: Any) -> bool:
        """See `Keeper`."""
        return is_overridden(layer, "save_assets")

    def read(self, layer: Any) -> Arrays:
        """See `Keeper`."""
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return {
                path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), np.uint8)
                for path in found
            }

    def write(self, layer: Any, state: Arrays) -> None:
        """See `Keeper`."""
        if outside := list(filter(leaves_folder, state)):
            raise ValueError(f"{layer.name} can't take files of the names {outside}.")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.tobytes())
            layer.load_assets(folder)


_KEEPERS: tuple[Keeper, ...] = (Vocabulary(), Bins(), Adapted(), Stored(), Files())


def keeps_something(layer: Any) -> bool:
    """Whether a layer is of a kind that keeps something, now or once it is adapted."""
    return any(keeper.keeps(layer) for keeper in _KEEPERS)


def read_layer(layer: Any, *, costly: bool = True) -> Arrays:
    """What a layer keeps, by kind and name; empty for nothing.

    Args:
        layer: the layer.
        costly: whether to read what takes long, too.
    """
    state: Arrays = {}
    for keeper in _KEEPERS:
        if keeper.keeps(layer) and (costly or not keeper.costs):
            for name, array in _read_with(keeper, layer).items():
                state[f"{keeper.name}/{name}"] = array
    return state


def write_layer(layer: Any, state: Arrays) -> bool:
    """Let a layer keep something; whether it kept something else before.

    What the state does not hold stays as it is.
    """
    changed = False
    for keeper in _KEEPERS:
        start = f"{keeper.name}/"
        stored = {n.removeprefix(start): array for n, array in state.items() if n.startswith(start)}
        if stored and keeper.keeps(layer) and not equal(_read_with(keeper, layer), stored):
            keeper.write(layer, stored)
            changed = True
    return changed


def is_overridden(layer: Any, name: str) -> bool:
    """Whether a method that Keras's layers have is another one in the layer's class."""
    method = getattr(type(layer), name, None)
    module = getattr(method, "__module__", None) or ""
    return bool(module) and not is_of_keras(method) and not module.startswith("hvdkit.")


def stored_by(layer: Any) -> dict[str, Any]:
    """What a layer gives to `save_own_variables`."""
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    return store


def loadable(layer: Any) -> Arrays:
    """What `load_own_variables` of a layer can take: what it stores, as it comes from a file."""
    store = {name: np.asarray(value) for name, value in stored_by(layer).items()}
    texts = {name: dict(text_of(name, a)) for name, a in store.items() if a.dtype.kind in "OSU"}
    return store | {name: texts_in(text, name) for name, text in texts.items()}


def _read_with(keeper: Keeper, layer: Any) -> Arrays:
    try:
        return keeper.read(layer)
    except Exception as error:
        # Code of others that a training alone does not call: a tokenizer without words, say.
        if topology.rank() == 0 and not vars(layer).get("_hvdkit_said_unread"):
            vars(layer)["_hvdkit_said_unread"] = True
            logger.warning(
                "hvdkit: what %s keeps outside of variables is neither sent, compared nor saved: "
                "reading it ends with %s",
                layer.name,
                f"{type(error).__name__}: {error}",
            )
        return {}
