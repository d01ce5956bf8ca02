"""What can't be a pipeline is one error on every rank, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from checks.marks import long
from checks.pipeline_parallel.comparison import pipeline_model, pipeline_of_all_ranks

import hvdkit as hvd
from hvdkit.mesh.mesh import set_mesh
from hvdkit.parallel import PipelineModel, schedules


def build(width: int = 4) -> keras.Model:
    keras.backend.clear_session()
    layers = [keras.layers.Dense(width, name=f"layer_{i}") for i in range(8)]
    return keras.Sequential([keras.Input((6,)), *layers], name="row")


def require_refusal(
    run: Callable[[], Any], *parts: str, error: type[Exception] = ValueError
) -> None:
    """All ranks get the same error, with all of these texts in it."""
    with pytest.raises(error) as caught:
        run()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert len(set(hvd.allgather_object(message))) == 1


def check_no_mesh() -> None:
    set_mesh(None)
    require_refusal(lambda: PipelineModel(build, micro_batches=2), "hvd.set_mesh")


@long
def check_numbers_that_do_not_fit() -> None:
    pipeline_of_all_ranks()
    stages = hvd.size()
    require_refusal(lambda: PipelineModel(build, micro_batches=0), "an integer above 0, not 0")
    wide = schedules.Interleaved(9)
    require_refusal(
        lambda: PipelineModel(build, micro_batches=2 * stages, schedule=wide),
        "model 'row' can be cut into 8 chunks at most",
        f"the pipeline needs {9 * stages}",
    )
    require_refusal(
        lambda: PipelineModel(build, micro_batches=2, cuts=["layer_0"] * (stages + 1)),
        f"{stages + 1} cuts make {stages + 2} chunks, but the pipeline has {stages}",
    )
    if stages > 1:
        require_refusal(
            lambda: PipelineModel(build, micro_batches=2, cuts=["nowhere"] * (stages - 1)),
            "has no layer 'nowhere'",
        )
        odd = 2 * stages + 1
        require_refusal(
            lambda: PipelineModel(build, micro_batches=odd, schedule=schedules.Interleaved(2)),
            f"{odd} micro-batches over {stages} stages",
        )


@long
def check_micro_batches_that_do_not_divide_a_batch() -> None:
    pipeline_of_all_ranks()
    model = PipelineModel(build, micro_batches=4)
    model.compile("sgd", "mse")
    x, y = np.zeros((20, 6), "float32"), np.zeros((20, 4), "float32")
    words = "batches of 10 rows can't be divided into the micro_batches=4 of 'row'"
    require_refusal(lambda: model.fit(x, y, batch_size=10, verbose=0), words)
    rows = hvd.shard((x, y), batch_size=10)
    require_refusal(lambda: model.fit(rows, verbose=0), words)


@long
def check_models_that_can_not_be_cut() -> None:
    pipeline_of_all_ranks()

    class OwnCall(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    class OwnStep(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    def recurrent() -> keras.Model:
        cell = keras.layers.GRU(3, stateful=True, name="remembers")
        return keras.Sequential([keras.Input((5, 6), batch_size=2), cell, keras.layers.Dense(1)])

    def with_statistics_twice() -> keras.Model:
        inputs = keras.Input((6,))
        layer = keras.layers.BatchNormalization(name="shared")
        hidden = layer(inputs)
        for i in range(8):
            hidden = keras.layers.Dense(6, name=f"layer_{i}")(hidden)
        return keras.Model(inputs, layer(hidden))

    def with_text() -> keras.Model:
        inputs = keras.Input((), dtype="string")
        clean = keras.layers.Identity(dtype="string", name="clean")(inputs)
        lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
        return keras.Model(inputs, keras.layers.Dense(2)(lookup(clean)))

    def without_file() -> keras.Model:
        model = build()
        model.load_weights("/nowhere/to/be/found.weights.h5")
        return model

    def trains() -> keras.Model:
        keras.utils.set_random_seed(1)  # else that the ranks differ is what is refused first
        model = keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(4) for _ in range(8))])
        model.compile("sgd", "mse")
        model.fit(np.ones((2, 6)), np.ones((2, 4)), verbose=0)
        return model

    def fails_on_one_rank() -> keras.Model:
        model = build()
        if hvd.rank() == hvd.size() - 1:
            raise RuntimeError("no disk here")
        return model

    require_refusal(lambda: PipelineModel(OwnCall, micro_batches=2), "OwnCall", "can't be cut")
    require_refusal(
        lambda: PipelineModel(lambda: OwnStep([keras.Input((6,))]), micro_batches=2),
        "has its own train_step",
    )
    require_refusal(lambda: PipelineModel(recurrent(), micro_batches=2), "'remembers' is stateful")
    require_refusal(lambda: PipelineModel(recurrent, micro_batches=2), "'remembers' is stateful")
    require_refusal(lambda: PipelineModel(3, micro_batches=2), "or a function that builds one")
    if hvd.size() > 1:
        cuts = [f"layer_{i}" for i in range(hvd.size() - 1)]
        require_refusal(
            lambda: PipelineModel(with_statistics_twice, micro_batches=2, cuts=cuts),
            "layer 'shared' (BatchNormalization) would be needed on both sides",
        )
    if hvd.size() == 2:
        require_refusal(
            lambda: PipelineModel(with_text, micro_batches=2, cuts=["clean"]),
            "'clean' returns would have to be sent, and stages send no text",
        )
    require_refusal(
        lambda: PipelineModel(without_file, micro_batches=2), "FileNotFoundError", "nowhere"
    )
    require_refusal(lambda: PipelineModel(trains, micro_batches=2), "PipelineModel(build())")
    require_refusal(
        lambda: PipelineModel(fails_on_one_rank, micro_batches=2),
        f"on rank {hvd.size() - 1} ",
        "RuntimeError: no disk here",
    )
    model = build()
    PipelineModel(model, micro_batches=2)
    if hvd.size() > 1:
        require_refusal(lambda: PipelineModel(model, micro_batches=2), "another PipelineModel")


@long
def check_losses_that_are_no_sum() -> None:
    model = pipeline_model(build, micro_batches=2)
    ignoring = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    require_refusal(lambda: model.compile("sgd", ignoring), "ignore_class=0")
    rows = keras.losses.MeanSquaredError(reduction="none")
    require_refusal(lambda: model.compile("sgd", rows), "reduction='none'")

    def masked() -> keras.Model:
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
        for _ in range(8):
            hidden = keras.layers.Dense(4)(hidden)
        return keras.Model(inputs, hidden)

    tagger = pipeline_model(masked, micro_batches=2)
    require_refusal(lambda: tagger.compile("sgd", "mse"), "a mask reaches the outputs")


@long
def check_an_optimizer_of_no_mesh() -> None:
    mesh = pipeline_of_all_ranks()
    set_mesh(None)
    optimizer = hvd.DistributedOptimizer("sgd")
    set_mesh(mesh)
    model = pipeline_model(build, micro_batches=2)
    require_refusal(lambda: model.compile(optimizer, "mse"), "wrap it after hvd.set_mesh")


@long
def check_ranks_that_differ() -> None:
    if hvd.size() == 1:
        return
    rank = hvd.rank()
    error = hvd.RankMismatchError
    require_refusal(
        lambda: pipeline_model(lambda: build(4 + rank), micro_batches=2),
        "the models and settings of the pipeline differ between ranks",
        error=error,
    )
    require_refusal(
        lambda: pipeline_model(build, micro_batches=2 + rank),
        "2 micro-batches on rank 0, but 3 micro-batches on rank 1",
        error=error,
    )
    model = pipeline_model(build, micro_batches=2)
    model.compile("sgd", "mse")
    x, y = np.full((8, 6), rank, "float32"), np.zeros((8, 4), "float32")
    for use in (
        lambda: model.fit(x, y, verbose=0),
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x, verbose=0),
    ):
        require_refusal(use, "the batches of the stages differ", "the same rows", error=error)


@long
def check_a_stage_without_variables_and_a_norm_of_all() -> None:
    if hvd.size() == 1:
        return

    def frozen() -> keras.Model:
        model = build()
        model.layers[0].trainable = False
        return model

    model = pipeline_model(
        frozen, micro_batches=2, cuts=[f"layer_{i}" for i in range(hvd.size() - 1)]
    )
    model.compile(keras.optimizers.SGD(global_clipnorm=1.0), "mse")
    require_refusal(
        lambda: model.train_on_batch(np.zeros((4, 6)), np.zeros((4, 4))),
        "stage 0 has no trainable variables",
    )
