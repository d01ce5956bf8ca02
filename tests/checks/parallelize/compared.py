"""A model that is divided by itself, and the same one trained alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from checks.meshes import made

import hvdkit as hvd
from hvdkit.parallel import PipelineModel, unsharded_values

Sizes = tuple[int, int, int]
ROWS, STEPS, EPOCHS = 8, 3, 2


def adam() -> Any:
    return keras.optimizers.AdamW(0.01, epsilon=1e-3, global_clipnorm=0.5)


def sgd() -> Any:
    return keras.optimizers.SGD(0.1, momentum=0.9)


def with_other_weights(model: keras.Model, seed: int) -> keras.Model:
    """The model with weights none of which is zero, as biases are at first."""
    rng = np.random.default_rng(seed)
    values = [w + 0.1 * rng.random(w.shape).astype(w.dtype) for w in model.get_weights()]
    model.set_weights(values)
    return model


def on_this_rank(build: Callable[[], keras.Model]) -> keras.Model:
    """The model that `alone` trains on rank 0, and on other ranks one with other weights."""
    keras.utils.set_random_seed(1 + hvd.rank())
    return with_other_weights(build(), 1 + hvd.rank())


def alone(
    build: Callable[[], keras.Model],
    data: tuple[Any, ...],
    loss: Any,
    optimizer: Callable[[], Any],
    **options: Any,
) -> tuple[keras.Model, list[float]]:
    """The model after a training in this process, and the losses of its epochs."""
    keras.utils.set_random_seed(1)
    model = with_other_weights(build(), 1)
    start = model.get_weights()
    model.compile(optimizer(), loss, **options)
    losses = []
    for _ in range(EPOCHS):
        # Not `fit`, which all ranks have to call. With several outputs there are several losses.
        steps = [model.train_on_batch(*_rows(data, step)) for step in range(STEPS)]
        losses.append(float(np.mean([np.ravel(found)[0] for found in steps])))
    moved = [np.abs(w - s).max() for w, s in zip(model.get_weights(), start, strict=True)]
    assert max(moved) > 1e-3, "the model did not learn, so this proves nothing"
    return model, losses


def _rows(data: Any, step: int) -> Any:
    rows = slice(step * ROWS, (step + 1) * ROWS)
    return keras.tree.map_structure(lambda array: array[rows], data)


def divided(
    build: Callable[[], keras.Model],
    data: tuple[Any, ...],
    loss: Any,
    optimizer: Callable[[], Any],
    sizes: Sizes,
    exchange: Callable[[], Any] | None = None,
    **options: Any,
) -> tuple[keras.Model, list[float]]:
    """The model after the same training over the ranks."""
    mesh = made.mesh_of(sizes)
    hvd.set_mesh(mesh)  # for exchanges, which keep the ranks that they are for
    given = None if exchange is None else exchange()
    model = hvd.parallelize(on_this_rank(build), mesh, given, verbose=False)
    model.compile(optimizer(), loss, **options)
    fitted = model.fit(
        hvd.shard(data, ROWS // mesh.data, shuffle=False), epochs=EPOCHS, shuffle=False, verbose=0
    )
    return model, fitted.history["loss"]


def require_same(
    build: Callable[[], keras.Model],
    data: tuple[Any, ...],
    loss: Any,
    sizes: Sizes,
    *,
    optimizer: Callable[[], Any] = adam,
    rtol: float = 1e-3,
    atol: float = 2e-4,
    exchange: Callable[[], Any] | None = None,
    then: Callable[[keras.Model, keras.Model], None] | None = None,
    **options: Any,
) -> keras.Model:
    """Losses and weights over the ranks are those of one process.

    Args:
        build: makes the model.
        data: for `fit`.
        loss: for `compile`.
        sizes: of the mesh.
        optimizer: makes the optimizer.
        rtol: relative tolerance.
        atol: absolute tolerance of weights.
        exchange: makes that of replicas.
        then: what else to compare of both models, while there is the mesh.
        **options: of `compile`.
    """
    plain, expected = alone(build, data, loss, optimizer, **options)
    try:
        model, losses = divided(build, data, loss, optimizer, sizes, exchange, **options)
        np.testing.assert_allclose(losses, expected, rtol=rtol)
        require_weights(model, plain.get_weights(), rtol, atol)
        if then is not None:
            then(model, plain)
    finally:
        hvd.set_mesh(None)
    return model


def weights_of(model: keras.Model) -> list[np.ndarray] | None:
    """The undivided weights; None on later stages."""
    if isinstance(model, PipelineModel):
        return model.gather_weights()
    return unsharded_values(model.weights)


def require_weights(
    model: keras.Model, expected: list[np.ndarray], rtol: float, atol: float
) -> None:
    own = weights_of(model)
    hvd.barrier()
    if own is None:
        return
    for i, (mine, other) in enumerate(zip(own, expected, strict=True)):
        np.testing.assert_allclose(mine, other, rtol, atol, err_msg=str(i))


def divided_layers(model: keras.Model) -> int:
    """How many layers of the model are sharded."""
    return sum(hasattr(layer, "hvdkit_role") for layer in model._flatten_layers())
