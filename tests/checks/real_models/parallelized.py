"""Models that people train, divided by `hvd.parallelize`: as plain Keras trains them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import keras_hub
from checks.real_models import applications, language
from checks.real_models.training import GLOBAL_BATCH, RealModel, Trained, require_same

import hvdkit as hvd
from hvdkit.parallel import unsharded_values

models = keras_hub.models
WORDS = 32
SIZES = {**language.SIZES, "vocabulary_size": WORDS}


def bert() -> keras.Model:
    backbone = models.BertBackbone(
        **SIZES, num_heads=2, dropout=0.0, max_sequence_length=language.LENGTH
    )
    return models.BertTextClassifier(backbone, num_classes=language.CLASSES, dropout=0.0)


def gpt2() -> keras.Model:
    backbone = models.GPT2Backbone(
        **SIZES, num_heads=2, dropout=0.0, max_sequence_length=language.LENGTH
    )
    return models.GPT2CausalLM(backbone)


def llama() -> keras.Model:
    backbone = models.LlamaBackbone(**SIZES, num_query_heads=4, num_key_value_heads=2)
    return models.LlamaCausalLM(backbone)


BERT, GPT2, LLAMA = (
    replace(real, build=build)
    for real, build in (
        (language.BERT, bert),
        (language.GPT2, gpt2),
        (language.LLAMA, llama),
    )
)


def _parallelized(real: RealModel, mesh: hvd.Mesh, least: int, **options: Any) -> None:
    """Train a model over a mesh, where at least so many layers are sharded."""
    assert real.reference  # trained before there is a mesh
    model = hvd.parallelize(real.made_on_this_rank(), mesh, verbose=False, **options)
    assert sum(hasattr(layer, "hvdkit_role") for layer in model._flatten_layers()) >= least
    try:
        real.compile(model, hvd.DistributedOptimizer)
        x = real.data[:1]
        data = _shard(real.data, mesh)
        history = model.fit(data, validation_data=_shard(real.some_rows, mesh), epochs=2, verbose=0)
        results = model.evaluate(data, verbose=0, return_dict=True)
        rows = -(-real.rows // mesh.data)
        predictions = model.predict(_shard(x, mesh, rows), verbose=0)
        weights: Any = (
            model.gather_weights() if mesh.pipeline > 1 else unsharded_values(model.weights)
        )
        trained = Trained(model, history.history, results, predictions, weights)
        require_same(trained, real)
    finally:
        hvd.set_mesh(None)


def _shard(data: tuple[Any, ...], mesh: hvd.Mesh, rows: int | None = None) -> Any:
    rows = rows or GLOBAL_BATCH // mesh.data
    return hvd.shard(data[0] if len(data) == 1 else data, batch_size=rows, shuffle=False)


def check_bert_is_divided() -> None:
    _parallelized(BERT, hvd.Mesh(tensor=2), 12)


def check_gpt2_is_divided() -> None:
    _parallelized(GPT2, hvd.Mesh(tensor=2), 12)


def check_llama_is_divided() -> None:
    _parallelized(LLAMA, hvd.Mesh(tensor=2), 14)


def check_bert_in_measured_stages() -> None:
    _parallelized(BERT, hvd.Mesh(pipeline=2), 0, micro_batches=3)


def check_resnet_in_measured_stages() -> None:
    _parallelized(applications.RESNET, hvd.Mesh(pipeline=2), 0, micro_batches=2)


def check_resnet_in_replicas() -> None:
    _parallelized(applications.RESNET, hvd.Mesh(), 0)


def check_mobilenet_in_measured_stages() -> None:
    """With one micro-batch, which has all rows for the statistics."""
    _parallelized(applications.MOBILENET, hvd.Mesh(pipeline=2), 0)


def resnet_50() -> keras.Model:
    """All of it, with its statistics as they are."""
    model = keras.applications.ResNet50(weights=None, input_shape=applications.SHAPE, classes=3)
    return applications.frozen_statistics(model)


RESNET_50 = replace(applications.RESNET, build=resnet_50, rtol=5e-3, atol=5e-4)


def check_resnet_50_in_measured_stages() -> None:
    _parallelized(RESNET_50, hvd.Mesh(pipeline=2), 0, micro_batches=2)
