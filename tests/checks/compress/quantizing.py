"""Quantized models: files, ranks, checkpoints."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from checks.checkpoints.runs import shared_folder
from checks.compress.models import equal_on_all_ranks, sentences, tagger
from checks.marks import long

import hvdkit as hvd

_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@long
def check_files_of_quantized_attention_load() -> None:
    """Keras's own file of it does not: if this fails, hvd.compress.quantize is needed no more."""
    x = sentences(4)[0]
    file = shared_folder() / f"quantized{hvd.rank()}.keras"
    for mode in ("int8", "int4", "float8"):
        model = tagger(1)
        plain = np.asarray(model(x))
        hvd.compress.quantize(model, mode)
        given = np.asarray(model(x))
        assert 0 < np.abs(given - plain).max() < 1.5, mode
        model.save(file)
        loaded = keras.models.load_model(file)
        np.testing.assert_allclose(loaded(x), given, atol=1e-6)
        assert sorted(v.dtype for v in loaded.weights) == sorted(v.dtype for v in model.weights)
    model = tagger(1)
    model.quantize("int8")
    model.save(file)
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.models.load_model(file)


@long
def check_quantized_kernels_are_sent_and_compared() -> None:
    model = tagger(hvd.rank())
    hvd.compress.quantize(model, "int8")
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), _LOGITS)
    x, y, weights = sentences(16)
    rows = hvd.shard((x, y, weights), batch_size=4)
    with pytest.raises(hvd.RankMismatchError, match="kernel"):
        model.fit(rows, verbose=0)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    folder = shared_folder()
    backup = hvd.callbacks.BackupAndRestore(folder)
    before = [np.array(w) for w in model.get_weights()] if hvd.rank() == 0 else None
    model.fit(rows, verbose=0, callbacks=[start, backup])
    equal_on_all_ranks(model.get_weights())
    frozen = {v.path for v in model.variables if v.dtype == "int8" or v.path.endswith("_scale")}
    for variable, value in zip(model.weights, hvd.broadcast_object(before), strict=True):
        if variable.path in frozen:
            np.testing.assert_array_equal(variable, value)
    other = tagger(50 + hvd.rank())
    hvd.compress.quantize(other, "int8")
    other.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), _LOGITS)
    hvd.checkpoint.restore(folder, other)
    for mine, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@long
def check_trained_in_float8_as_in_one_process() -> None:
    """The maxima that its scales come from are those of all ranks."""
    x, y, weights = sentences(6 * 4 * hvd.size())
    reference = tagger(1)
    reference.quantize("float8")
    reference.compile(keras.optimizers.SGD(0.05), _LOGITS)
    reference.fit(x, y, sample_weight=weights, batch_size=4 * hvd.size(), shuffle=False, verbose=0)
    model = tagger(1 if hvd.rank() == 0 else 40 + hvd.rank())
    hvd.compress.quantize(model, "float8")
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), _LOGITS)
    folder = shared_folder()
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.BackupAndRestore(folder),
    ]
    rows = hvd.shard((x, y, weights), batch_size=4, shuffle=False)
    model.fit(rows, verbose=0, callbacks=callbacks)
    equal_on_all_ranks(model.get_weights())
    for mine, expected in zip(model.weights, reference.get_weights(), strict=True):
        if mine.path.endswith(("/kernel", "/bias", "embeddings")):
            # A rank's rounding to 8 bits is not that of the whole batch.
            np.testing.assert_allclose(mine, expected, atol=0.02, err_msg=mine.path)
    other = tagger(60 + hvd.rank())
    hvd.compress.quantize(other, "float8")
    other.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), _LOGITS)
    hvd.checkpoint.restore(folder, other)
    for mine, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@long
def check_low_rank_weights_beside_quantized_ones_are_trained() -> None:
    """QLoRA: int8 kernels stay, what is added to them is trained over the ranks."""
    model = tagger(1)
    hvd.compress.quantize(model, "int8")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.enable_lora(2)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.05)), _LOGITS)
    x, y, weights = sentences(48)
    rows = hvd.shard((x, y, weights), batch_size=4)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    losses = model.fit(rows, epochs=3, verbose=0, callbacks=[start]).history["loss"]
    assert losses[-1] < losses[0]
    equal_on_all_ranks(model.get_weights())
    trained = [v.path for v in model.trainable_variables]
    assert any("lora" in path for path in trained), trained
