"""A real model trained in each of hvdkit's ways, beside plain Keras in one process.

The reference of a model is trained once: Keras alone, with the global batch. What the ways give is
compared with it: losses and metrics of the epochs, weights, evaluation, predictions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import checks.real_models.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
from checks.real_models.weights import densified, take_pretrained_weights

import hvdkit as hvd

GLOBAL_BATCH = 12
ROWS = 3 * GLOBAL_BATCH + 5  # the last global batch is short, and does not divide by the ranks
EPOCHS = 2
EPOCH_STEPS = 4
Compile = Callable[[Any, Callable[[Any], Any]], None]


@dataclass(frozen=True, eq=False)
class RealModel:
    """A model, its data, and how it is compiled.

    Attributes:
        build: makes it; what it draws may differ between ranks.
        read: makes its data: (x,), (x, y) or (x, y, sample_weight).
        compile: compiles it; gets the model, and what to do with each of its optimizers.
        only_fits: whether it can't evaluate and predict.
        portable: whether a process that has neither hvdkit nor this module can read its file.
        over_ranks: makes what several ranks train in the place of `build`'s, where that differs.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    build: Callable[[], Any]
    read: Callable[[], tuple[Any, ...]]
    compile: Compile
    over_ranks: Callable[[], Any] | None = None
    only_fits: bool = False
    portable: bool = True
    rtol: float = 1e-3
    atol: float = 1e-4

    def made(self, seed: int, build: Callable[[], Any] | None = None) -> Any:
        """The model, with weights that follow from a seed as if they were read from a file."""
        keras.utils.set_random_seed(seed)
        model = (build or self.build)()
        take_pretrained_weights(model, seed)
        return model

    def made_on_this_rank(self) -> Any:
        """The model with the reference's first weights on rank 0, and others on other ranks."""
        seed = 1 if hvd.rank() == 0 else 100 + hvd.rank()
        return self.made(seed, self.over_ranks)

    @functools.cached_property
    def data(self) -> tuple[Any, ...]:
        """What `read` returns."""
        return self.read()

    @property
    def rows(self) -> int:
        """How many the data has."""
        return len(keras.tree.flatten(self.data)[0])

    @property
    def some_rows(self) -> tuple[Any, ...]:
        """Data for validation: a short batch, which divides by the ranks if the data does."""
        count = 6 + bool(self.rows % 6)
        return tuple(keras.tree.map_structure(lambda array: array[:count], self.data))

    @functools.cached_property
    def first_weights(self) -> list[np.ndarray]:
        """The weights that all ways start from."""
        return [np.array(w) for w in self.made(1).get_weights()]

    @functools.cached_property
    def reference(self) -> Trained:
        """The end of the training by plain Keras."""
        model = self.made(1)
        self.compile(model, densified)
        return alone(self, model)


@dataclass(frozen=True)
class Trained:
    """What a training ended with.

    Attributes:
        model: the model.
        history: of `fit`.
        results: of `evaluate`.
        predictions: of `predict`, in the order of the rows.
        weights: in the order of the model that `build` makes; None where this rank has not all.
    """

    model: Any
    history: dict[str, list[Any]]
    results: dict[str, Any]
    predictions: Any
    weights: list[np.ndarray] | None


def classifying(optimizer: Callable[[], Any], **loss: Any) -> Compile:
    """How a classifier into three classes is compiled: one of its metrics is no mean over rows."""

    def compile_model(model: Any, wrap: Callable[[Any], Any]) -> None:
        model.compile(
            wrap(optimizer()),
            keras.losses.SparseCategoricalCrossentropy(**loss),
            metrics=["accuracy", keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
        )

    return compile_model


def alone(real: RealModel, model: Any) -> Trained:
    """Train and try out a compiled model on this rank, or on a pipeline, with global batches."""
    keras.utils.set_random_seed(2)
    data = dict(zip(("x", "y", "sample_weight"), real.data, strict=False))
    history = model.fit(
        **data,
        validation_data=None if real.only_fits else real.some_rows,
        batch_size=GLOBAL_BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
    ).history
    results, predictions = {}, None
    if not real.only_fits:
        results = model.evaluate(**data, batch_size=GLOBAL_BATCH, return_dict=True, verbose=0)
        predictions = model.predict(data["x"], batch_size=real.rows, verbose=0)
    pipeline = isinstance(model, hvd.parallel.PipelineModel)
    all_weights = model.gather_weights() if pipeline else model.get_weights()
    return Trained(model, history, results, predictions, all_weights)


def require_same(found: Trained, real: RealModel) -> None:
    """Everything is what plain Keras gives, and the training moved what it should."""
    expected = real.reference
    same = functools.partial(np.testing.assert_allclose, rtol=real.rtol, atol=real.atol)
    assert set(found.history) == set(expected.history), (found.history, expected.history)
    for name, values in expected.history.items():
        same(found.history[name], values, err_msg=f"{name} of fit")
    assert set(found.results) == set(expected.results), (found.results, expected.results)
    for name, value in expected.results.items():
        same(found.results[name], value, err_msg=f"{name} of evaluate")
    keras.tree.assert_same_structure(found.predictions, expected.predictions)
    if not real.only_fits:
        keras.tree.map_structure(same, found.predictions, expected.predictions)
    require_same_weights(found.weights, real)


def require_same_weights(found: list[np.ndarray] | None, real: RealModel) -> None:
    """Weights are those that plain Keras ends with; frozen ones are what they were, to the bit."""
    if found is None:
        return
    model = real.reference.model
    assert len(found) == len(model.weights)
    moves = {id(v) for v in model.trainable_weights}
    for variable, mine, first in zip(model.weights, found, real.first_weights, strict=True):
        np.testing.assert_allclose(
            mine, variable.numpy(), real.rtol, real.atol, err_msg=variable.path
        )
        if np.array_equal(variable.numpy(), first):
            np.testing.assert_array_equal(mine, first, err_msg=f"{variable.path} is frozen")
        if id(variable) in moves:
            assert not np.array_equal(variable.numpy(), first), f"{variable.path} does not train"
