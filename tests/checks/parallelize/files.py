"""Files of divided models are those of the models that were given."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
from checks.marks import long
from checks.meshes.folders import shared_folder

import hvdkit as hvd

from . import models
from .compared import on_this_rank, require_weights, weights_of


def _model() -> keras.Model:
    return models.gpt(dropout=0.0)


def check_a_file_is_that_of_an_ordinary_model() -> None:
    _goes_through((1, 1, 2))


@long
def check_a_file_of_stages_is_that_of_an_ordinary_model() -> None:
    _goes_through((1, 2, 1))


def _goes_through(sizes: tuple[int, int, int]) -> None:
    mesh = hvd.Mesh(*sizes)
    with shared_folder() as folder:
        file = folder / "model.keras"
        model = hvd.parallelize(on_this_rank(_model), mesh, verbose=False)
        expected = hvd.broadcast_object(weights_of(model))
        model.save(file)
        hvd.barrier()
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))
        assert "hvd" not in json.dumps(config)
        hvd.set_mesh(None)
        whole = keras.models.load_model(file)
        original = _model()
        assert [type(x) for x in whole.layers] == [type(x) for x in original.layers]
        for mine, other in zip(whole.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(mine, other)
        hvd.set_mesh(mesh)
        scatter = getattr(model, "scatter_weights", None)
        zeros = [np.zeros_like(w) for w in expected]
        if scatter is None:
            hvd.parallel.assign_unsharded_values(model.weights, zeros)
        else:
            scatter(zeros)
        require_weights(model, zeros, rtol=0, atol=0)
        model.load_weights(file)
        require_weights(model, expected, rtol=0, atol=0)
        hvd.set_mesh(None)
