"""The states of the global random generators of Python, NumPy, TensorFlow and Keras."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from tensorflow.python.eager.context import context as tensorflow_context

from hvdkit.keras_internals import global_seed_generator


def random_states() -> dict[str, Any]:
    """The states, as plain data.

    Generators inside TensorFlow's stateful operations (`tf.random.normal` in a `tf.function`) have
    states that can't be read; keras.random's and `tf.random.Generator`'s are variables.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()
    states: dict[str, Any] = {
        "python": _plain(random.getstate()),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
    }
    if (seeds := _tensorflow_seeds()) is not None:
        states["tensorflow"] = _plain(seeds.getstate())
    if (generator := global_seed_generator()) is not None:
        states["keras"] = generator.state.numpy().tolist()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators to what `random_states` returned."""
    random.setstate(_generator_state(states["python"]))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
    seeds, generator = _tensorflow_seeds(), global_seed_generator()
    if seeds is not None and "tensorflow" in states:
        seeds.setstate(_generator_state(states["tensorflow"]))
    if generator is not None and "keras" in states:
        generator.state.assign(np.array(states["keras"], np.uint32))


def _tensorflow_seeds() -> Any:
    """What eager operations without a seed take theirs from, once `tf.random.set_seed` ran."""
    return getattr(tensorflow_context(), "_rng", None)


def _plain(state: tuple[Any, ...]) -> list[Any]:
    version, numbers, gauss = state
    return [version, list(numbers), gauss]


def _generator_state(plain: list[Any]) -> tuple[Any, ...]:
    version, numbers, gauss = plain
    return (version, tuple(numbers), gauss)
