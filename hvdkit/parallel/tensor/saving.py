"""Files of models that are sharded over a tensor group: they hold the unsharded model.

A `.keras` or `.weights.h5` file of a sharded model is that of the unsharded one. It loads with any
mesh, where each rank takes its shards of it, and without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.graph.rebuild import uncounted, undrawn
from hvdkit.mesh.layout import is_sharded, layout_of
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.patches import Patch
from hvdkit.state.unsharded import unsharded_values


def sharding_mesh_of(model: Any) -> Mesh | None:
    """The mesh whose tensor groups a model is sharded over; None if it is not sharded."""
    for variable in model.weights:
        layout = layout_of(variable)
        if layout is not None and is_sharded(variable):
            return layout.mesh
    return None


def write_unsharded_model(
    write: Callable[..., Any], model: keras.Model, *args: Any, **kwargs: Any
) -> Any:
    """What `save` and `save_weights` of Keras's models do: a sharded one is written unsharded.

    All ranks call it; those of the first replica gather the weights, and rank 0 writes. The copy
    that is written has no optimizer: `hvd.checkpoint` is for resuming.

    Args:
        write: Keras's method.
        model: the model.
        *args: the method's.
        **kwargs: the method's.
    """
    mesh = sharding_mesh_of(model)
    if mesh is None:
        return write(model, *args, **kwargs)
    if mesh.data_index > 0:
        return None
    values = unsharded_values(model.weights)
    if topology.rank() > 0:
        return None
    copy = unsharded(model)
    copy.set_weights(values)
    return write(copy, *args, **kwargs)


_UNSHARDED = "a model that is sharded over ranks is written unsharded"

PATCHES = (
    Patch(keras.Model, "save", write_unsharded_model, _UNSHARDED),
    Patch(keras.Model, "save_weights", write_unsharded_model, _UNSHARDED),
)


def unsharded(model: keras.Model) -> Any:
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
