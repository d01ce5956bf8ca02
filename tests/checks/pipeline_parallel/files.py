"""Files of the unsplit model, and what of it is in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from checks.marks import long
from checks.pipeline_parallel.comparison import (
    fit,
    pipeline_model,
    pipeline_of_all_ranks,
    require_close,
    require_weights,
    seeded,
)

import hvdkit as hvd
from hvdkit.parallel import PipelineModel


def build() -> keras.Model:
    layers = [keras.layers.Dense(8, activation="tanh") for _ in range(8)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(24, 6)).astype("float32"),
        rng.normal(size=(24, 2)).astype("float32"),
    )


def trained(folder: Path | None = None) -> PipelineModel:
    x, y = data()
    model = pipeline_model(build, micro_batches=3)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    callbacks = []
    if folder is not None:
        callbacks = [hvd.callbacks.ModelCheckpoint(folder / "checkpoint.keras")]
    model.fit(x, y, batch_size=12, epochs=2, verbose=0, callbacks=callbacks)
    return model


@long
def check_the_unsplit_model_is_written_and_read() -> None:
    x, _ = data()
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp()))
    model = trained(folder)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    predicted = model.predict(x, verbose=0)  # after rank 0 has written
    for file in ("model.keras", "checkpoint.keras"):
        loaded = keras.models.load_model(folder / file)
        require_weights(model, loaded, rtol=0, atol=0)
        require_close(file, loaded.predict(x, verbose=0), predicted)
    plain = seeded(build, 5)
    plain.load_weights(folder / "model.weights.h5")
    require_weights(model, plain, rtol=0, atol=0)
    other = seeded(lambda: PipelineModel(build, micro_batches=3), 6)
    other.load_weights(folder / "model.weights.h5")
    require_weights(other, plain, rtol=0, atol=0)
    np.testing.assert_array_equal(other.predict(x, verbose=0), predicted)


def check_weights_are_given_to_the_stages() -> None:
    plain = seeded(build, 7)
    model = pipeline_model(build, micro_batches=3)
    model.scatter_weights(plain.get_weights() if hvd.rank() == 0 else None)
    require_weights(model, plain, rtol=0, atol=0)


@long
def check_a_rank_holds_its_stage_only() -> None:
    mesh = pipeline_of_all_ranks()
    for given in (False, True):
        whole = seeded(build)
        source = seeded(build) if given else build
        model = seeded(lambda source=source: PipelineModel(source, micro_batches=2))
        fit_once(model)
        model.gather_weights()
        unsplit = model._partition.unsplit.model
        held = [v.path for v in unsplit.weights if v._value is not None]
        everyone = hvd.allgather_object(held)
        names = [v.path for v in unsplit.weights]
        assert len(names) == len(whole.weights)
        assert all(everyone), "each stage holds some"
        assert len(everyone) == mesh.pipeline
        assert [v.path for v in model.weights] == held
        assert held == [name for name in names if name in held]
        assert sum(map(len, everyone)) == len(names), "and no two the same"
        assert unsplit.count_params() == whole.count_params()


def fit_once(model: PipelineModel) -> None:
    x, y = data()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    fit(model, x, y, batch_size=12)


def check_calling_it_is_refused() -> None:
    model = pipeline_model(build, micro_batches=2)
    with pytest.raises(NotImplementedError, match="use predict, evaluate or fit"):
        model(np.zeros((2, 6), "float32"))


def check_a_file_that_one_rank_can_not_read_or_write_is_an_error_on_all() -> None:
    model = pipeline_model(build, micro_batches=2)
    nowhere = Path("/nowhere/to/be/found.weights.h5")
    tried = (
        (FileNotFoundError, lambda: model.load_weights(nowhere)),
        (OSError, lambda: model.save_weights(nowhere)),
        (ValueError, lambda: model.scatter_weights([np.zeros(3)] if hvd.rank() == 0 else None)),
    )
    for kind, use in tried:
        with pytest.raises(kind) as caught:
            use()
        messages = hvd.allgather_object(str(caught.value))
        assert len(set(messages)) == 1, messages
        assert "on rank 0 " in messages[0], messages
    require_weights(model, seeded(build), rtol=0, atol=0)
