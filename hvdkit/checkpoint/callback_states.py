"""The states of callbacks: of Keras's and hvdkit's by their attributes, of others by two methods.

A callback of one's own is saved if it has `get_state()`, which returns plain data (what JSON can
hold, and NumPy arrays), and `set_state(state)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from hvdkit.engine import logger, topology

# The attributes that change while training; the others are settings of the constructor.
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "stopped_epoch",
        "best",
        "best_weights",
        "best_epoch",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "epochs_since_last_save",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    keras.callbacks.History: ("history", "epoch"),
}
_ARRAY = "__array__"
_BASE_ATTRIBUTES = set(vars(keras.callbacks.Callback()))


def callback_states(callbacks: Sequence[Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The states of callbacks.

    Returns:
        Plain data by the callback's class, and the arrays in it, by name.
    """
    states: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, callback in _named(callbacks):
        state = _state_of(callback)
        if state is not None:
            states[key] = _plain(state, f"callbacks/{key}", arrays)
    return states, arrays


def restore_callback_states(
    callbacks: Sequence[Any], states: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Give callbacks the states that they had; those that are new keep theirs."""
    for key, callback in _named(callbacks):
        if key in states:
            _set_state(callback, _whole(states[key], arrays))


def warn_of_lost_states(callbacks: Sequence[Any]) -> None:
    """Name the callbacks that may have a state that is not saved, on rank 0."""
    lost = [type(callback).__name__ for callback in callbacks if _may_lose(callback)]
    if lost and topology.rank() == 0:
        logger.warning(
            "hvdkit: the state of %s is not saved in checkpoints: give the class get_state() and "
            "set_state(state) if it has to go on where it was.",
            ", ".join(dict.fromkeys(lost)),
        )


def _named(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each callback with the name of its class, and which of that class it is."""
    counts: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        yield f"{name}/{counts[name]}", callback
        counts[name] += 1


def _attributes(callback: Any) -> tuple[str, ...]:
    return next((names for cls, names in _ATTRIBUTES.items() if isinstance(callback, cls)), ())


def _state_of(callback: Any) -> Any:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    names = [name for name in _attributes(callback) if hasattr(callback, name)]
    return {name: getattr(callback, name) for name in names} if names else None


def _set_state(callback: Any, state: Any) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for name in _attributes(callback):
        if name in state:
            setattr(callback, name, state[name])


def _may_lose(callback: Any) -> bool:
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return False
    if type(callback).__module__.startswith(("keras.", "hvdkit.")):
        return False
    inherited = set(_attributes(callback)) | _BASE_ATTRIBUTES
    known = isinstance(callback, tuple(_ATTRIBUTES))
    return not known and bool(set(vars(callback)) - inherited)


def _plain(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON can hold it; arrays are put aside under a name."""
    if isinstance(value, np.ndarray):
        arrays[name] = np.array(value)
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{name}/{k}", arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "numpy"):
        return _plain(value.numpy(), name, arrays)
    raise TypeError(
        f"the state of a callback holds a {type(value).__name__} ({name}): get_state() returns "
        "numbers, texts, None, lists, dicts with texts as keys, and NumPy arrays."
    )


def _whole(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return np.array(arrays[value[_ARRAY]])
        return {k: _whole(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_whole(v, arrays) for v in value]
    return value
