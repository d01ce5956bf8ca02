"""N ranks train like one process; what is saved is the model that was trained."""

from __future__ import annotations

import json
from typing import Any

import bert
import keras
import ner_data
import ner_model
import numpy as np
from checks.marks import long
from checks.meshes.folders import shared_folder

import hvdkit as hvd

from . import files
from .scored import LABELS, sentences, tagger

BATCH = 6
EPOCHS = 2


def _compile(model: keras.Model, wrap: Any) -> None:
    optimizer = ner_model.optimizer_of(0.02, 8, 0.25, weight_decay=0.1, clip_norm=0.5)
    model.compile(wrap(optimizer), keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def _batches() -> Any:
    of = sentences(3 * BATCH + 1)  # of the last batch only rank 0 has a row
    rows = ner_data.by_length(ner_data.rows_of(of, files.plain_tokenizer(), 6), seed=1)
    return ner_data.batches(rows, of, LABELS, BATCH)


def _require_as_one_process(adapters: int | None) -> None:
    plain, model = tagger(), tagger()
    for each in (plain, model):
        if adapters:
            keras.utils.set_random_seed(1)
            ner_model.adapt(each, adapters)
    _compile(plain, lambda optimizer: optimizer)
    alone = plain.fit(_batches(), epochs=EPOCHS, verbose=0)
    if hvd.rank():
        model.set_weights([np.ones(w.shape) for w in model.get_weights()])
    _compile(model, hvd.DistributedOptimizer)
    together = model.fit(
        hvd.shard(_batches(), BATCH // hvd.size()),
        epochs=EPOCHS,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        verbose=0,
    )
    np.testing.assert_allclose(together.history["loss"], alone.history["loss"], rtol=1e-4)
    assert len(model.weights) == len(plain.weights)
    before = tagger()
    moved = set()
    for own, other in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(own, other, atol=2e-4, err_msg=own.path)
    for old in before.weights:
        new = next(weight for weight in model.weights if weight.path == old.path)
        if not np.array_equal(new, old):
            moved.add(new.path)
    if adapters:
        assert moved == {"classifier/kernel", "classifier/bias"}
    else:
        assert len(moved) == len(before.weights), "not all was trained"


@long
def check_training_is_that_of_one_process() -> None:
    _require_as_one_process(adapters=None)


@long
def check_adapters_train_as_in_one_process() -> None:
    _require_as_one_process(adapters=2)


def check_what_does_not_decay() -> None:
    """With gradients of zero only kernels and embeddings shrink."""
    model = tagger()
    optimizer = ner_model.optimizer_of(0.1, 10, 0.0, weight_decay=0.5, clip_norm=1.0)
    optimizer.build(model.trainable_variables)
    before = [np.array(weight) for weight in model.trainable_variables]
    zeros = [np.zeros(weight.shape, "float32") for weight in before]
    optimizer.apply(zeros)
    for old, weight in zip(before, model.trainable_variables, strict=True):
        decays = weight.name in ("kernel", "embeddings")
        assert np.array_equal(old, weight) != decays, weight.path
        if decays:
            np.testing.assert_allclose(weight, old * 0.95, rtol=1e-5)


@long
def check_saved_is_what_was_trained() -> None:
    """Of adapters and mixed precision a plain model remains, with the same outputs."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tagger()
        keras.utils.set_random_seed(2)
        ner_model.adapt(model, 2)
        rng = np.random.default_rng(3)
        for weight in model.trainable_variables:
            weight.assign(rng.normal(0, 0.5, weight.shape))
        config = bert.BertConfig(
            **{n: v for n, v in files.CONFIG.items() if n not in bert.EXPECTED}
        )
        inputs = {
            "input_ids": np.array([[2, 8, 9, 3, 0], [2, 9, 3, 0, 0]], "int32"),
            "attention_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], "int32"),
        }
        with shared_folder() as folder:
            saved = folder / "model"
            ner_model.save(model, config, LABELS, files.plain_tokenizer(), saved)
            assert {path.name for path in saved.iterdir()} == {
                "model.keras",
                "labels.json",
                "tokenizer.json",
            }
            loaded = keras.saving.load_model(saved / "model.keras")
            assert json.loads((saved / "labels.json").read_text()) == LABELS
        assert all(weight.dtype == "float32" for weight in loaded.weights)
        assert not [weight.path for weight in loaded.weights if "lora" in weight.path]
        with_weights = [layer for layer in loaded.layers if layer.weights]
        assert {layer.dtype_policy.name for layer in with_weights} == {"float32"}
        # As exact as the mixed precision of what was trained.
        np.testing.assert_allclose(
            np.asarray(loaded(inputs)), np.asarray(model(inputs)), atol=0.2, rtol=0.05
        )
        query = model.get_layer("encoder.layer.0.attention.self.query")
        np.testing.assert_allclose(
            loaded.get_layer(query.name).kernel, query.kernel, rtol=1e-4, atol=1e-5
        )
    finally:
        keras.config.set_dtype_policy("float32")
