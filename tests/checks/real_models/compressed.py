"""Models of `keras.applications` and KerasHub, made smaller over ranks."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest
from checks.checkpoints.runs import shared_folder
from checks.compress.models import equal_on_all_ranks, kernels
from checks.real_models.applications import images
from checks.real_models.language import CLASSES, sentences
from checks.real_models.training import ROWS

import hvdkit as hvd
from hvdkit.compress import Cubic, Distiller, Pruning

_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _compiled(model: keras.Model) -> keras.Model:
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.003)), _LOGITS)
    return model


def check_bert_of_half_the_layers() -> None:
    sizes = {"vocabulary_size": 31, "num_layers": 4, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_hub.models.BertBackbone(**sizes, num_heads=2, max_sequence_length=6)
    teacher = keras_hub.models.BertTextClassifier(backbone, num_classes=CLASSES)
    hvd.broadcast_layers(teacher, 0)
    x, y = sentences()
    every = hvd.compress.student_of(teacher, keep=range(4))
    np.testing.assert_allclose(every(x), teacher(x), atol=1e-5)
    student = hvd.compress.student_of(teacher)
    layer = backbone.get_layer("transformer_layer_0").count_params()
    assert student.count_params() == teacher.count_params() - 2 * layer
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    pruning = Pruning(Cubic(0.5, end=3, every=1))
    distiller = _compiled(Distiller(teacher, student))
    rows = hvd.shard((x, y), batch_size=4)
    history = distiller.fit(rows, epochs=3, verbose=0, callbacks=[start, pruning]).history
    assert history["loss"][-1] < history["loss"][0]
    equal_on_all_ranks(student.get_weights())
    pruned = np.concatenate([kernel.ravel() for kernel in kernels(student)])
    assert abs((pruned == 0).mean() - 0.5) < 0.01
    hvd.compress.quantize(student, "int8")
    file = shared_folder() / f"student{hvd.rank()}.keras"
    student.save(file)
    loaded = keras.models.load_model(file)
    np.testing.assert_allclose(loaded(x), student(x), atol=1e-5)


def check_mobilenet_pruned() -> None:
    """Convolutions, with statistics of batches between them."""
    keras.utils.set_random_seed(hvd.rank())
    options = {"alpha": 0.25, "weights": None, "classes": 3, "classifier_activation": None}
    plain = keras.applications.MobileNet((32, 32, 3), **options)
    model = _compiled(keras.models.clone_model(plain))
    x, y = images()
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    pruning = Pruning(Cubic(0.8, end=2, every=1))
    rows = hvd.shard((x, y), batch_size=ROWS // hvd.size() // 4)
    model.fit(rows, verbose=0, callbacks=[start, pruning])
    equal_on_all_ranks(model.get_weights())
    pruned = np.concatenate([kernel.ravel() for kernel in kernels(model)])
    assert abs((pruned == 0).mean() - 0.8) < 0.01
    with pytest.raises(ValueError, match="no layer that was not quantized"):
        hvd.compress.quantize(keras.models.clone_model(plain), "int8")  # convolutions only
    student = hvd.compress.student_of(model)  # five of its cells are alike
    assert student.count_params() < model.count_params()
    assert student(x).shape == model(x).shape
