"""A step with gradients of each rank's own is a plain one with their mean, without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.optimizers import Halved, shipped_optimizers

import hvdkit as hvd

O = keras.optimizers  # noqa: E741
STEPS = 4


def _gradients() -> list[np.ndarray]:
    """For each of two variables the gradients of each step and rank."""
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(STEPS, hvd.size(), *shape)).astype("float32") for shape in ((3, 2), (2,))
    ]


def _applied(optimizer: Any, gradients: list[np.ndarray], *, graph: bool) -> list[np.ndarray]:
    """The values of two variables, at first 0.5, after a step with each of some gradients."""
    variables = [keras.Variable(np.full(g.shape[1:], 0.5, "float32")) for g in gradients]
    optimizer.build(variables)

    def step(*now: tf.Tensor) -> None:
        optimizer.apply(list(now), variables)

    run = tf.function(step) if graph else step
    for now in zip(*gradients, strict=True):
        run(*map(tf.constant, now))
    return [v.numpy() for v in variables]


def _require_same_steps(
    name: str, plain: Any, distributed: Any, *, graph: bool, **tolerance: float
) -> None:
    """Steps with gradients of each rank's own are plain ones with their mean."""
    gradients = _gradients()
    expected = _applied(plain, [g.mean(1) for g in gradients], graph=graph)
    found = _applied(distributed, [g[:, hvd.rank()] for g in gradients], graph=graph)
    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs - 0.5).max() > 1e-4, name
        options = {"rtol": 2e-4, "atol": 2e-5, **tolerance}
        np.testing.assert_allclose(mine, theirs, **options, err_msg=name)


def check_every_optimizer_applies_the_mean_gradient() -> None:
    for cls in shipped_optimizers():
        plain, inner = (cls(learning_rate=0.2) for _ in range(2))
        _require_same_steps(cls.__name__, plain, hvd.DistributedOptimizer(inner), graph=False)


def check_options_of_keras_apply_to_the_mean_gradient() -> None:
    cases: dict[str, Callable[[], Any]] = {
        "by config": lambda: O.deserialize(O.serialize(O.Adam(0.02))),
        "clipnorm": lambda: O.SGD(0.1, clipnorm=0.05),
        "clipvalue": lambda: O.SGD(0.1, clipvalue=0.01),
        "weight decay": lambda: O.AdamW(0.02, weight_decay=0.1),
        "ema": lambda: O.Adam(0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        "schedule": lambda: O.SGD(O.schedules.CosineDecay(0.2, 10)),
        "accumulation": lambda: O.Adam(
            0.02, gradient_accumulation_steps=2, global_clipnorm=0.1, epsilon=1e-3
        ),
    }
    for name, make in cases.items():
        _require_same_steps(name, make(), hvd.DistributedOptimizer(make()), graph=True)


@long
def check_options_of_distributed_optimizers_apply_to_the_mean_gradient() -> None:
    from horovod.tensorflow.compression import Compression

    half, brief = {"rtol": 5e-3, "atol": 2e-3}, {"rtol": 3e-2, "atol": 1e-2}
    sgd = lambda rate=0.1, **options: O.SGD(rate, **options)  # noqa: E731
    cases: list[tuple[Any, dict[str, Any], dict[str, float]]] = [
        (sgd(), {"gradient_predivide_factor": 2.0}, {}),
        *((sgd(), {"groups": groups}, {}) for groups in (1, 2, 100)),
        *(
            (sgd(), {"compression": compression}, half)
            for compression in (hvd.Compression.fp16, Compression.fp16, Compression.none, Halved())
        ),
        (sgd(), {"compression": hvd.Compression.bf16}, brief),
        (sgd(0.1 * hvd.size()), {"op": hvd.Sum}, {}),
        (sgd(0.2, gradient_accumulation_steps=2), {"backward_passes_per_step": 2}, {}),
        (
            sgd(gradient_accumulation_steps=2),
            {"backward_passes_per_step": 2, "average_aggregated_gradients": True},
            {},
        ),
    ]
    for plain, options, tolerance in cases:
        distributed = hvd.DistributedOptimizer(sgd(), **options)
        _require_same_steps(str(options), plain, distributed, graph=True, **tolerance)
