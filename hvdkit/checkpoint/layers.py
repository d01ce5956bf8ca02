"""What layers keep outside of variables, in the files of a checkpoint.

values["layers"]              [{"name": ..., "class": ...}, ...]: the layers that keep something
arrays "layers/3/KIND/NAME"   what the fourth of them keeps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvdkit.checkpoint.arrays import Contents
from hvdkit.errors import CheckpointError
from hvdkit.state.arrays import Arrays, equal, leaves_folder
from hvdkit.state.keepers import Files, read_layer, write_layer

LAYERS = "layers"


def add_layers(contents: Contents, layers: Sequence[Any]) -> None:
    """Put what layers keep into the contents of a file."""
    contents.values[LAYERS] = [
        {"name": layer.name, "class": type(layer).__name__} for layer in layers
    ]
    for position, layer in enumerate(layers):
        for name, array in read_layer(layer).items():
            contents.arrays[f"{LAYERS}/{position}/{name}"] = array


def joined(files: Sequence[Contents]) -> Contents:
    """What the layers of several shards of a model keep, each layer once.

    Files of an older version, which hold nothing of layers, give contents without them.
    """
    result = Contents({}, {LAYERS: []} if any(LAYERS in file.values for file in files) else {})
    names: set[str] = set()
    for file in files:
        for position, layer in enumerate(file.values.get(LAYERS, [])):
            if layer["name"] in names:
                continue
            names.add(layer["name"])
            for name, array in _state(file, position).items():
                result.arrays[f"{LAYERS}/{len(result.values[LAYERS])}/{name}"] = array
            result.values[LAYERS].append(layer)
    return result


def restore_layers(contents: Contents, layers: Sequence[Any], *, by_name: bool) -> bool:
    """Let layers keep what is stored.

    A checkpoint of an older version holds nothing of them: they keep what they have.

    Args:
        contents: of a file, or of several that are `joined`.
        layers: the layers of this model.
        by_name: whether the file is from a model that was sharded in another way, so that layers
            are found by their names and not by their order.

    Returns:
        Whether one of them kept something else before.
    """
    stored = contents.values.get(LAYERS, [])
    positions = {layer["name"]: position for position, layer in enumerate(stored)}
    if by_name:
        pairs = [(one, positions[one.name]) for one in layers if one.name in positions]
    else:
        pairs = list(zip(layers, range(len(stored)), strict=False))
    written = [write_layer(layer, _state(contents, position)) for layer, position in pairs]
    return any(written)


def other_layers(contents: Contents, layers: Sequence[Any], *, by_name: bool) -> str | None:
    """Say where stored layers are not those of a model; None if they are."""
    if LAYERS not in contents.values:
        return None
    if by_name:
        return _left_out(contents, layers)
    stored = [layer["class"] for layer in contents.values[LAYERS]]
    mine = [type(layer).__name__ for layer in layers]
    if stored == mine:
        return None
    return (
        "of layers that keep something outside of variables the checkpoint has "
        f"{', '.join(stored) or 'none'}, and this model {', '.join(mine) or 'none'}"
    )


def _left_out(contents: Contents, layers: Sequence[Any]) -> str | None:
    """Say which layers would keep what they have, where another name may hold what is theirs."""
    mine = {one.name for one in layers}
    others = [(i, x) for i, x in enumerate(contents.values[LAYERS]) if x["name"] not in mine]
    stored = {layer["name"] for layer in contents.values[LAYERS]}
    lacking = []
    for one in layers:
        states = [_state(contents, i) for i, x in others if x["class"] == type(one).__name__]
        if one.name not in stored and states and not any(equal(read_layer(one), s) for s in states):
            lacking.append(one.name)
    if not lacking:
        return None
    return (
        f"it holds nothing of {', '.join(lacking)}, which keep something outside of variables and "
        "are found by their names, as the model was divided in another way"
    )


def require_files_inside(contents: Contents, source: str) -> None:
    """Refuse files of layers that would be written outside of the folder that they are read from.

    Args:
        contents: of a file.
        source: where it was read, for the message.

    Raises:
        CheckpointError: one would be.
    """
    start = f"{Files.name}/"
    for position, layer in enumerate(contents.values.get(LAYERS, [])):
        files = [n.removeprefix(start) for n in _state(contents, position) if n.startswith(start)]
        for name in filter(leaves_folder, files):
            raise CheckpointError(
                f"{source}: the layer {layer['name']} has a file of the name {name!r}, which would "
                "be written outside of its folder. hvdkit writes no such names: do not use a "
                "checkpoint that holds one."
            )


def _state(contents: Contents, position: int) -> Arrays:
    start = f"{LAYERS}/{position}/"
    return {n.removeprefix(start): a for n, a in contents.arrays.items() if n.startswith(start)}
