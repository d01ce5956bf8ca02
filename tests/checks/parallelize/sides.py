"""What models have besides layers: masks, penalties, several outputs, precisions, frozen layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from checks.marks import long

import hvdkit as hvd
from hvdkit.parallel import assign_unsharded_values, unsharded_values

from . import models
from .compared import alone, divided_layers, on_this_rank, require_same, sgd

TENSOR, STAGES = (1, 1, 2), (1, 2, 1)


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def _many_sided(sizes: tuple[int, int, int], **options: Any) -> keras.Model:
    return require_same(
        models.many_sided,
        models.many_sided_data(),
        models.many_sided_losses(),
        sizes,
        **{"optimizer": sgd, "loss_weights": {"classes": 1.0, "value": 0.3}, **options},
    )


@long
def check_many_sides() -> None:
    model = _many_sided(TENSOR)
    # Four of the attention, the dropout of scores, a pair and the dropout in it, the embedding, the
    # frozen layer, and the two that sum over it.
    assert divided_layers(model) == 12, hvd.parallel.plan_of(model).layers


@long
def check_use_of_a_trained_model() -> None:
    _many_sided(TENSOR, then=_require_same_use)


def _require_same_use(model: keras.Model, plain: keras.Model) -> None:
    """A trained model is used like the one that was trained alone."""
    x, y, weights = models.many_sided_data()
    rows = keras.tree.map_structure(lambda array: array[:7], x)
    found = model.predict(rows, batch_size=5, verbose=0)
    for name, value in plain.predict_on_batch(rows).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    results = model.evaluate(x, y, sample_weight=weights, batch_size=models.ROWS, verbose=0)
    expected = plain.test_on_batch(x, y, weights)
    np.testing.assert_allclose(np.ravel(results)[0], np.ravel(expected)[0], rtol=1e-3)
    values = [w + 1 for w in plain.get_weights()]
    assign_unsharded_values(model.weights, values)
    for mine, other in zip(unsharded_values(model.weights), values, strict=True):
        np.testing.assert_array_equal(mine, other)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert "frozen" in "".join(lines)


@long
def check_many_sides_in_stages() -> None:
    """Frozen statistics and no dropout: a pipeline has those of a micro-batch."""

    def build() -> keras.Model:
        model = models.many_sided()
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        return model

    require_same(
        build,
        models.many_sided_data(),
        models.many_sided_losses(),
        STAGES,
        optimizer=sgd,
        loss_weights={"classes": 1.0, "value": 0.3},
    )


@long
def check_many_sides_in_mixed_bfloat16() -> None:
    with _precision("mixed_bfloat16"):
        _many_sided(TENSOR, rtol=0.05, atol=0.05)


@long
def check_many_sides_in_mixed_float16_with_loss_scaling() -> None:
    """At first the scale is too large, which all ranks find out together."""

    def optimizer() -> Any:
        scaled = keras.optimizers.LossScaleOptimizer
        return scaled(sgd(), initial_scale=2.0**20, dynamic_growth_steps=2)

    def require_same_scale(model: keras.Model, plain: keras.Model) -> None:
        scale = float(model.optimizer.dynamic_scale)
        assert set(hvd.allgather_object(scale)) == {scale}
        assert scale == float(plain.optimizer.dynamic_scale) < 2.0**20

    with _precision("mixed_float16"):
        _many_sided(TENSOR, optimizer=optimizer, rtol=0.05, atol=0.05, then=require_same_scale)


@long
def check_stages_in_mixed_float16() -> None:
    with _precision("mixed_float16"):
        require_same(
            models.mlp_without_noise,
            models.numbers(),
            "mse",
            STAGES,
            optimizer=sgd,
            rtol=0.05,
            atol=0.05,
        )


@long
def check_what_is_frozen_after_the_division_and_compiled_before_it() -> None:
    """`trainable` is set when the model is divided; what it was compiled with is gone."""

    def build() -> keras.Model:
        model = models.mlp_without_noise()
        model.compile("adam", "mae")
        return model

    def frozen(model: keras.Model) -> keras.Model:
        model.layers[0].trainable = False
        return model

    plain, expected = alone(lambda: frozen(build()), models.numbers(), "mse", sgd)
    model = hvd.parallelize(on_this_rank(build), hvd.Mesh(tensor=2), verbose=False)
    assert any("compile it again" in note for note in hvd.parallel.plan_of(model).notes)
    frozen(model).compile(sgd(), "mse")
    data = hvd.shard(models.numbers(), 8, shuffle=False)
    losses = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for mine, other in zip(unsharded_values(model.weights), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    hvd.set_mesh(None)


@long
def check_penalties_and_constraints_that_look_at_all() -> None:
    model = require_same(models.regularized, models.numbers(), "mse", TENSOR)
    said = hvd.parallel.plan_of(model).layers
    for name in ("active", "o", "bounded"):
        assert any(key.startswith(name) and "whole" in how for key, how in said.items()), said


@long
def check_scores_of_the_attention_are_an_output() -> None:
    ids, following = models.text_and_classes()
    scores = np.zeros((models.ROWS, 4, models.LENGTH, models.LENGTH), "float32")
    require_same(
        models.seen_attention,
        (ids, [following, scores]),
        [models.logits(), "mse"],
        TENSOR,
        optimizer=sgd,
    )


@long
def check_batches_of_a_fixed_size() -> None:
    def build() -> keras.Model:
        x = keras.Input(batch_shape=(8, 6))
        hidden = keras.layers.Dense(8, "relu")(x)
        return keras.Model(x, keras.layers.Dense(2)(hidden), name="fixed")

    require_same(build, models.numbers(), "mse", TENSOR, optimizer=sgd)
