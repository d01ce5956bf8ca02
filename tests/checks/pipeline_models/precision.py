"""Models of 16 bits."""

from __future__ import annotations

import keras
from checks.pipeline_parallel.comparison import fit, pipeline_model, require_close, seeded
from checks.pipeline_parallel.precision import build, data


def check_mixed_precision() -> None:
    x, y = data()
    for policy in ("mixed_float16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            models = [seeded(build), pipeline_model(build, micro_batches=4)]
            losses = []
            for model in models:
                model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
                losses.append(fit(model, x, y, batch_size=12, epochs=6)[0])
        finally:
            keras.config.set_dtype_policy("float32")
        require_close(policy, losses[1], losses[0], rtol=0.02, atol=0.005)
        assert losses[1][-1] < losses[1][0]
        assert models[1].chunks[-1].output_shape is not None
