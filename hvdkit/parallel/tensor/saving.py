"""Files of models of which each rank of a tensor group holds a part: they hold the whole model.

A `.keras` or `.weights.h5` file of a divided model is that of the undivided one. It loads with any
mesh, where each rank takes its part of it, and without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.graph.rebuild import uncounted, undrawn
from hvdkit.mesh.layout import is_split, layout_of
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.patches import Patch
from hvdkit.state.unsharded import whole_values


def dividing_mesh_of(model: Any) -> Mesh | None:
    """The mesh whose tensor groups divide a model; None if this rank holds it whole."""
    for variable in model.weights:
        layout = layout_of(variable)
        if layout is not None and is_split(variable):
            return layout.mesh
    return None


def write_whole_model(
    write: Callable[..., Any], model: keras.Model, *args: Any, **kwargs: Any
) -> Any:
    """What `save` and `save_weights` of Keras's models do at first: a divided one is written whole.

    All ranks call it; those of the first replica gather the weights, and rank 0 writes. The copy
    that is written has no optimizer: `hvd.checkpoint` is for resuming.

    Args:
        write: Keras's method.
        model: the model.
        *args: the method's.
        **kwargs: the method's.
    """
    mesh = dividing_mesh_of(model)
    if mesh is None:
        return write(model, *args, **kwargs)
    if mesh.data_index > 0:
        return None
    values = whole_values(model.weights)
    if topology.rank() > 0:
        return None
    whole = undivided(model)
    whole.set_weights(values)
    return write(whole, *args, **kwargs)


_WHOLE = "a model that is divided over ranks is written whole"

PATCHES = (
    Patch(keras.Model, "save", write_whole_model, _WHOLE),
    Patch(keras.Model, "save_weights", write_whole_model, _WHOLE),
)


def undivided(model: keras.Model) -> Any:
    """A new model, with weights of its own, as `model` would be without a mesh.

    Args:
        model: a functional or Sequential model, or one with a `get_config` of its own.
    """
    mesh = current_mesh()
    set_mesh(None)
    try:
        with undrawn(), uncounted():
            return type(model).from_config(model.get_config())
    finally:
        set_mesh(mesh)
