"""Files of divided models are those of undivided ones."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long

import hvdkit as hvd
from hvdkit.parallel.pipeline.model import PipelineModel

from . import made
from .folders import shared_folder


@long
def check_a_saved_model_loads_whole_and_with_any_mesh() -> None:
    with shared_folder() as folder:
        for mesh in made.each():
            file = folder / f"{mesh.data}-{mesh.pipeline}-{mesh.tensor}.keras"
            model = made.language_model(1)
            model.save(file)
            hvd.barrier()
            # Rank 0 has made layers for the file, which must not be seen in later ones.
            later = keras.layers.Dense(1)
            later.build((None, 1))
            names_and_weights = [(later.name, later.get_weights()[0].tolist())] * hvd.size()
            assert hvd.allgather_object(names_and_weights[0]) == names_and_weights
            expected = hvd.broadcast_object(made.whole_weights(model))
            hvd.set_mesh(None)
            whole = keras.models.load_model(file)
            for mine, other in zip(whole.get_weights(), expected, strict=True):
                np.testing.assert_array_equal(mine, other)
            hvd.set_mesh(mesh)
            if not isinstance(model, PipelineModel):
                made.require_weights(keras.models.load_model(file), expected, rtol=0, atol=0)


@long
def check_weights_of_a_file_are_divided() -> None:
    _weights_are_divided(made.SIZES[hvd.size()][-1])


@long
def check_weights_of_a_file_are_divided_in_all_ways() -> None:
    _weights_are_divided(*made.SIZES[hvd.size()])


def _weights_are_divided(*some: tuple[int, int, int]) -> None:
    with shared_folder() as folder:
        file = folder / "model.weights.h5"
        for _ in made.each(*some):
            made.language_model(1).save_weights(file)
            hvd.barrier()
            model = made.language_model(2)
            model.load_weights(file)
            weights = made.whole_weights(made.language_model(1))
            made.require_weights(model, weights or [], rtol=0, atol=0)
            hvd.barrier()
