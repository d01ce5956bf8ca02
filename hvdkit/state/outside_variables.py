"""State that layers have outside of variables.

There are two kinds. Constants that a layer computes with, made from its variables: they are made
anew by `renew` after somebody has written the variables (`keras.layers.Normalization`, every layer
with a `finalize_state()`, and those of one's own that make them in `load_own_variables`). And state
that no variable holds: vocabularies of lookup layers, boundaries of bins, and what a layer of one's
own gives to Keras's `save_own_variables` and `save_assets`. `read` and `write` move it between
models that have the same layers.

Graphs that were traced before hold the old constants and tables: `remake_functions` lets Keras
trace its own again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from hvdkit.engine import (
    ProcessSet,
    RankMismatchError,
    allgather_object,
    broadcast_object,
    global_process_set,
    raise_everywhere,
    require_same,
    topology,
)
from hvdkit.state.arrays import Arrays, digest
from hvdkit.state.constants import ADAPTED, constants, makes_constants, renew
from hvdkit.state.keepers import keeps_something, read_layer, write_layer
from hvdkit.state.own import keeps_its_own

__all__ = [
    "LayerState",
    "described",
    "fingerprints",
    "holders",
    "keepers",
    "read",
    "remake_functions",
    "renew",
    "send",
    "write",
]

LayerState = Arrays | None
"""What one layer keeps outside of variables: arrays by name; None for nothing."""

# What two layers with the same variables and tables may still do differently.
_WITH_SETTINGS = (
    *ADAPTED,
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
    keras.layers.CategoryEncoding,
    keras.layers.Normalization,
    keras.layers.Rescaling,
)
_NO_SETTINGS = {"name", "vocabulary", "idf_weights", "bin_boundaries", "mean", "variance"}


def remake_functions(model: Any) -> None:
    """Let Keras trace the steps of `fit`, `evaluate` and `predict` again, at their next use.

    Args:
        model: a model; in the middle of its `fit`, too.
    """
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.Model):
            continue
        if layer.train_function is not None:
            layer.make_train_function(force=True)
        layer.test_function = layer.predict_function = None


def read(model: Any, *, costly: bool = True) -> list[LayerState]:
    """What the layers of a model keep outside of variables.

    Args:
        model: a model, or a layer.
        costly: whether to read what takes long, too: the files of `save_assets`.

    Returns:
        For each layer, in Keras's order, what it keeps; None for nothing.
    """
    return [read_layer(layer, costly=costly) or None for layer in model._flatten_layers()]


def write(model: Any, states: Sequence[LayerState]) -> bool:
    """Let the layers of a model keep what those of another one keep, and `renew` it.

    A layer that keeps nothing there is left as it is here.

    Args:
        model: a model, or a layer, with the same layers.
        states: what `read` returned.

    Returns:
        Whether the model computes with something else now: see `remake_functions`.

    Raises:
        ValueError: the models have different numbers of layers.
    """
    layers = list(model._flatten_layers())
    if len(layers) != len(states):
        raise ValueError(
            f"{model.name!r} has {len(layers)} layers, and the states are of {len(states)}."
        )
    written = [
        write_layer(layer, state)
        for layer, state in zip(layers, states, strict=True)
        if state is not None
    ]
    return renew(model) | any(written)


def send(model: Any, root_rank: int, process_set: ProcessSet = global_process_set) -> bool:
    """Give the ranks what the layers of one rank keep, and `renew` the model on all of them.

    Args:
        model: a model with the same layers on all ranks.
        root_rank: the (global) rank that sends.
        process_set: the ranks that take part.

    Returns:
        Whether the model of any rank computes with something else now.

    Raises:
        RankMismatchError: on every rank: they have other layers, or one can't take the state.
    """
    layers = keepers(model)
    require_same(
        "the layers that keep something outside of variables",
        [type(layer).__name__ for layer in layers],
        process_set,
    )
    own = list(map(read_layer, layers)) if topology.rank() == root_rank else None
    states = broadcast_object(
        own, root_rank, name="hvdkit.outside_variables", process_set=process_set
    )
    changed, problem = False, None
    try:
        for layer, state in zip(layers, states, strict=True):
            changed |= write_layer(layer, state)
        changed |= renew(model)
    except Exception as error:  # code of others, in load_assets and finalize_state
        problem = (
            f"what the layers of rank {root_rank} keep outside of variables can't be taken over: "
            f"{type(error).__name__}: {error}"
        )
    raise_everywhere(problem, RankMismatchError, process_set)
    return any(allgather_object(changed, name="hvdkit.changed", process_set=process_set))


def holders(model: Any) -> list[str]:
    """The names of the layers that keep something outside of variables."""
    return [layer.name for layer in model._flatten_layers() if read_layer(layer)]


def keepers(model: Any, *, own: bool = False) -> list[Any]:
    """The layers that keep something outside of variables, or will once they are adapted.

    Args:
        model: a model, or a layer.
        own: whether those of which each rank has its own, or the others.
    """
    return [
        layer
        for layer in model._flatten_layers()
        if keeps_something(layer) and keeps_its_own(layer) == own
    ]


def described(model: Any, *, costly: bool = True) -> list[tuple[str, str]]:
    """The layers that compute with something outside of variables: a name, and a checksum.

    Two models with equal variables and equal checksums compute the same. Layers of which each rank
    has its own are left out.

    Args:
        model: a model, or a layer.
        costly: whether to look at what takes long, too: the files of `save_assets`.
    """
    found = []
    for layer in model._flatten_layers():
        if keeps_its_own(layer):
            continue
        numbers = dict(constants(layer)) if makes_constants(layer) else _given(layer)
        settings = dict(_settings(layer))
        if keeps_something(layer) or numbers or settings:
            checksum = digest([read_layer(layer, costly=costly), numbers, settings])
            found.append((f"{layer.name} ({type(layer).__name__})", checksum))
    return found


def fingerprints(model: Any) -> list[str]:
    """A text for each layer that computes with something outside of variables.

    Two models with equal variables and equal texts compute the same.
    """
    return [
        f"{checksum} outside of the variables of {name.rsplit('(', 1)[1].rstrip(')')}"
        for name, checksum in described(model)
    ]


def _given(layer: Any) -> dict[str, Any]:
    """Normalization(mean=, variance=) makes its constants when it is built."""
    if not isinstance(layer, keras.layers.Normalization) or layer.input_mean is None:
        return {}
    return {"mean": layer.input_mean, "variance": layer.input_variance}


def _settings(layer: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(layer, _WITH_SETTINGS):
        return
    for name, value in layer.get_config().items():
        if name not in _NO_SETTINGS and isinstance(value, (int, float, str, list, tuple)):
            yield name, value
