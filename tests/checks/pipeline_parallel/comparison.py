"""A pipeline beside the unsplit model, which every rank trains alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.parallel import PipelineModel

RTOL, ATOL = 2e-4, 2e-5
Compile = Callable[[keras.Model], None]


def pipeline_of_all_ranks() -> Mesh:
    """A mesh whose only replica has a stage on each rank; the same in all checks."""
    mesh = current_mesh()
    if mesh is None:
        mesh = Mesh(pipeline=hvd.size())
        set_mesh(mesh)
    return mesh


def seeded(build: Callable[[], Any], seed: int = 1) -> Any:
    """What `build` returns, with weights from a seed."""
    keras.utils.set_random_seed(seed)
    return build()


def pipeline_model(build: Callable[[], keras.Model], **options: Any) -> PipelineModel:
    """A pipeline over all ranks, with the weights that `seeded(build)` has."""
    pipeline_of_all_ranks()
    return seeded(lambda: PipelineModel(build, **options))


class Losses(keras.callbacks.Callback):
    """Keeps the running loss after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.seen.append(float((logs or {})["loss"]))


def fit(model: keras.Model, *args: Any, **options: Any) -> tuple[list[float], dict[str, Any]]:
    """Train with a seed for the order of the rows; returns the losses and the history."""
    keras.utils.set_random_seed(2)
    losses = Losses()
    history = model.fit(*args, verbose=0, callbacks=[losses], **options)
    return losses.seen, history.history


def require_close(name: str, mine: Any, reference: Any, rtol: float = RTOL, atol: float = ATOL):
    np.testing.assert_allclose(mine, reference, rtol=rtol, atol=atol, err_msg=name)


def require_weights(
    model: PipelineModel, reference: keras.Model, rtol: float = RTOL, atol: float = ATOL
) -> None:
    """The weights of all stages are those of the unsplit model."""
    weights = model.gather_weights()
    assert (weights is None) == (current_mesh().pipeline_index > 0)
    if weights is None:
        return
    assert len(weights) == len(reference.weights)
    for mine, variable in zip(weights, reference.weights, strict=True):
        require_close(variable.path, mine, variable.numpy(), rtol, atol)


def require_same_training(
    build: Callable[[], keras.Model],
    compile_model: Compile,
    x: Any,
    y: Any,
    *,
    given: bool = False,
    rtol: float = RTOL,
    atol: float = ATOL,
    fit_options: dict[str, Any],
    **options: Any,
) -> PipelineModel:
    """Train both, and compare all they give.

    Args:
        build: builds the model.
        compile_model: compiles it.
        x: inputs.
        y: targets.
        given: whether the pipeline is made from the model instead of the function.
        rtol: relative tolerance.
        atol: absolute tolerance.
        fit_options: more arguments of `fit`.
        **options: of `PipelineModel`.
    """
    reference = seeded(build)
    initial = reference.get_weights()
    compile_model(reference)
    pipeline_of_all_ranks()
    model = seeded(lambda: PipelineModel(build() if given else build, **options))
    first = model.gather_weights()
    for mine, theirs in zip(first or [], initial if first else [], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    compile_model(model)
    expected_losses, expected = fit(reference, x, y, **fit_options)
    losses, history = fit(model, x, y, **fit_options)
    assert len(losses) == len(expected_losses)
    require_close("losses of the steps", losses, expected_losses, rtol, atol)
    assert list(history) == list(expected), (list(history), list(expected))
    for name, values in expected.items():
        require_close(name, history[name], values, rtol, atol)
    require_weights(model, reference, rtol, atol)
    assert int(model.optimizer.iterations) == int(reference.optimizer.iterations) > 9
    require_same_results(model, reference, x, y, rtol, atol, fit_options["batch_size"])
    return model


def require_same_results(
    model: PipelineModel,
    reference: keras.Model,
    x: Any,
    y: Any,
    rtol: float = RTOL,
    atol: float = ATOL,
    batch_size: int = 12,
) -> None:
    """Both evaluate and predict alike, on every rank."""
    expected = reference.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    found = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    assert list(found) == list(expected)
    for name, value in expected.items():
        require_close(f"evaluate's {name}", found[name], value, rtol, atol)
    outputs = model.predict(x, batch_size=batch_size, verbose=0)
    wanted = reference.predict(x, batch_size=batch_size, verbose=0)
    keras.tree.assert_same_structure(outputs, wanted)
    for mine, theirs in zip(keras.tree.flatten(outputs), keras.tree.flatten(wanted), strict=True):
        assert mine.dtype == theirs.dtype
        require_close("predict", mine, theirs, rtol, atol)
