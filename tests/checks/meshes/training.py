"""A small GPT over each mesh: the losses and weights of the undivided one in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from checks.marks import long
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh

from . import made
from .models import gpt

ROWS, STEPS = 8, 3


def train_undivided(optimizer: Any) -> tuple[list[np.ndarray], list[float]]:
    """The weights and the losses of two epochs of this process alone."""
    keras.utils.set_random_seed(1)
    model = gpt(False)
    start = model.get_weights()
    model.compile(optimizer, loss(False))
    ids, next_ids = text(ROWS * STEPS)
    # Not `fit`, which all ranks have to call.
    batches = list(zip(np.split(ids, STEPS), np.split(next_ids, STEPS), strict=True))
    losses = [np.mean([model.train_on_batch(*batch) for batch in batches]) for _ in range(2)]
    moved = [np.abs(w - s).max() for w, s in zip(model.get_weights(), start, strict=True)]
    assert min(moved) > 1e-3, "the model did not learn, so this proves nothing"
    return model.get_weights(), losses


def fit_divided(mesh: Mesh, optimizer: Any, **options: Any) -> tuple[keras.Model, list[float]]:
    # Replicas start from different weights, and take those of the first.
    model = made.language_model(1 + mesh.data_index, **options)
    model.compile(hvd.DistributedOptimizer(optimizer), loss(True))
    fitted = model.fit(
        hvd.shard(text(ROWS * STEPS), ROWS // mesh.data, shuffle=False),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.ConsistencyCheck(every_n_epochs=1),
        ],
    )
    return model, fitted.history["loss"]


def compare(optimizer: Callable[[], Any], *some: tuple[int, int, int], **options: Any) -> None:
    """Train on each mesh, or on some, and on rank 0 alone, without a mesh."""
    weights, expected = hvd.broadcast_object(
        train_undivided(optimizer()) if hvd.rank() == 0 else None
    )
    keras.backend.clear_session()  # rank 0 has counted layers that others have not
    for mesh in made.each(*some):
        model, losses = fit_divided(mesh, optimizer(), **options)
        np.testing.assert_allclose(losses, expected, rtol=1e-4, err_msg=str(mesh))
        made.require_weights(model, weights, rtol=1e-3, atol=2e-4)


@long
def check_adam_on_stages_and_replicas() -> None:
    adam = lambda: keras.optimizers.AdamW(0.01, epsilon=1e-3, global_clipnorm=0.5)  # noqa: E731
    compare(adam, made.SIZES[hvd.size()][0])


@long
def check_adam_with_a_clipped_global_norm() -> None:
    compare(lambda: keras.optimizers.AdamW(0.01, epsilon=1e-3, global_clipnorm=0.5))
