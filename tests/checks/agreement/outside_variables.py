"""What layers compute with, and no variable holds: vocabularies, bins, constants, files."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.agreement.at_start import START
from checks.marks import long

import hvdkit as hvd

Check = hvd.callbacks.ConsistencyCheck
L = keras.layers


class Scaled(L.Layer):
    """Computes with a constant that it makes of a weight, as Normalization does."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(1,), name="scale", trainable=False)
        self.built = True
        self.finalize_state()

    def finalize_state(self) -> None:
        self.factor = tf.constant(2.0 * self.scale.numpy())

    def call(self, x: Any) -> Any:
        return x * self.factor


class Offset(L.Layer):
    """Keeps a number that is no variable, and text, as Keras's guide to saving shows."""

    offset, words = 0.0, ("none",)

    def save_own_variables(self, store: Any) -> None:
        store["offset"], store["words"] = np.array(self.offset), np.array(self.words)

    def load_own_variables(self, store: Any) -> None:
        self.offset = float(np.array(store["offset"]))
        self.words = tuple(word.decode() for word in np.array(store["words"]).tolist())

    def call(self, x: Any) -> Any:
        return x + self.offset + float(len(self.words))


class FromFile(L.Layer):
    """Keeps a file, as tokenizers do."""

    text = ""

    def save_assets(self, folder: str) -> None:
        with open(os.path.join(folder, "text.txt"), "w") as file:
            file.write(self.text)

    def load_assets(self, folder: str) -> None:
        with open(os.path.join(folder, "text.txt")) as file:
            self.text = file.read()

    def call(self, x: Any) -> Any:
        return x + float(len(self.text))


WORDS = ["to", "be", "or", "not", "Zürich", "two\nlines"]


def rows(seed: int) -> dict[str, np.ndarray]:
    """Inputs whose numbers and words differ with the seed."""
    rng = np.random.default_rng(seed)
    return {
        "number": rng.normal(seed, 1 + seed, (16, 2)).astype("float32"),
        "word": rng.choice(WORDS[: 3 + seed], (16, 1)),
        "code": rng.integers(seed, 9, (16, 1)),
    }


def tabular(seed: int) -> keras.Model:
    """A model of layers of every kind, adapted to the rows of a seed, with weights of it."""
    keras.utils.set_random_seed(seed)
    data = rows(seed)
    norm, bins = L.Normalization(), L.Discretization(num_bins=4)
    text = L.TextVectorization(8, output_mode="tf_idf", pad_to_max_tokens=True)
    word, code = L.StringLookup(), L.IntegerLookup(num_oov_indices=2)
    for layer, column in ((norm, "number"), (bins, "number"), (word, "word"), (code, "code")):
        layer.adapt(data[column])
    text.adapt(data["word"])
    inputs = {
        "number": keras.Input((2,), name="number"),
        "word": keras.Input((1,), dtype="string", name="word"),
        "code": keras.Input((1,), dtype="int64", name="code"),
    }
    scaled, offset, file = Scaled(), Offset(), FromFile()
    offset.offset, offset.words = float(seed), ("a",) * (1 + seed)
    file.text = "x" * seed
    numbers = file(offset(scaled(norm(inputs["number"]))))
    columns = [
        numbers,
        L.Flatten()(L.Embedding(20, 2)(bins(inputs["number"]))),
        L.Flatten()(L.Embedding(20, 2)(word(inputs["word"]))),
        L.Flatten()(L.Embedding(20, 2)(code(inputs["code"]))),
        L.Flatten()(text(inputs["word"])),
    ]
    model = keras.Model(inputs, L.Dense(1)(L.Concatenate()(columns)))
    scaled.scale.assign([1.0 + seed])
    scaled.finalize_state()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse")
    return model


def fit(model: keras.Model, *callbacks: Any) -> Any:
    """Train on rows that are the same on all ranks."""
    return model.fit(_batches(model), verbose=0, callbacks=list(callbacks))


def outputs(model: keras.Model) -> list[float]:
    return np.asarray(model.predict(_batches(model), verbose=0)).ravel().tolist()


def _batches(model: keras.Model) -> tf.data.Dataset:
    x = {name: rows(3)[name] for name in model.input}
    return tf.data.Dataset.from_tensor_slices((x, np.zeros((16, 1), "float32"))).batch(8)


def require_outputs_of(model: keras.Model, rank: int) -> None:
    """Assert that all ranks compute what a rank would with everything adapted there."""
    expected = outputs(tabular(rank))
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-5)


@long
def check_broadcast_sends_all_that_layers_compute_with() -> None:
    root = hvd.size() - 1
    model = tabular(hvd.rank())
    fit(model, START(root))
    require_outputs_of(model, root)
    text = next(layer for layer in model.layers if isinstance(layer, L.TextVectorization))
    assert len(set(map(str, hvd.allgather_object(text.get_vocabulary())))) == 1


@long
def check_functions_that_were_traced_before_are_made_anew() -> None:
    model = tabular(hvd.rank())
    fit(model, Check(at_start=False))
    expected = hvd.broadcast_object(own := outputs(model))
    losses = hvd.allgather_object(fit(model, START(0)).history["loss"])
    assert all(np.isclose(other, losses[0]) for other in losses), losses
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-5)
    assert (hvd.rank() == 0) == np.allclose(expected, own)


def _error(model: keras.Model, *callbacks: Any) -> str:
    with pytest.raises(hvd.RankMismatchError) as caught:
        fit(model, *callbacks)
    text = str(caught.value)
    assert len(set(hvd.allgather_object(text))) == 1, "not the same error on every rank"
    return text


def words_model(words: list[str], **options: Any) -> keras.Model:
    """A model with a StringLookup of words, or with a Hashing."""
    keras.utils.set_random_seed(0)
    layer = L.Hashing(9, **options) if options else L.StringLookup(name="vocabulary")
    if not options:
        layer.adapt(words)
    inputs = keras.Input((1,), dtype="string", name="word")
    model = keras.Model({"word": inputs}, L.Dense(1)(L.Flatten()(L.Embedding(9, 2)(layer(inputs)))))
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    return model


@long
def check_vocabularies_of_other_rows_are_an_error_before_the_first_step() -> None:
    """Each rank adapts to its own shard, and all weights are equal."""
    text = _error(words_model(WORDS[hvd.rank() :][:3]))
    assert "before the first step" in text
    assert "vocabulary (StringLookup), no value has a majority" in text
    assert "BroadcastGlobalVariablesCallback(0)" in text
    if hvd.size() > 2:  # so that there is a majority
        text = _error(words_model(WORDS[:3] if hvd.rank() < 2 else WORDS[:2]))
        assert "vocabulary (StringLookup), rank 2 (" in text
    fit(words_model(WORDS[:3]))


@long
def check_repair_sends_the_vocabulary() -> None:
    model = words_model(WORDS[hvd.rank() :][:3])
    fit(model, Check(repair=True))
    fit(model)
    assert model.layers[1].get_vocabulary() == words_model(WORDS[:3]).layers[1].get_vocabulary()


def check_other_settings_are_an_error() -> None:
    assert "(Hashing), no value" in _error(words_model([], salt=1 + hvd.rank()), START(0))


def check_normalization_of_other_rows_is_an_error() -> None:
    keras.utils.set_random_seed(0)
    norm = L.Normalization()
    norm.adapt(rows(hvd.rank())["number"])
    model = keras.Sequential([keras.Input((2,), name="number"), norm, L.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    data = hvd.shard((rows(0)["number"], np.zeros((16, 1))), 4)
    with pytest.raises(hvd.RankMismatchError, match=r"normalization.*variance"):
        model.fit(data, verbose=0)


def check_variables_and_layers_outside_of_a_model() -> None:
    data = rows(hvd.rank())
    expected = L.Normalization()
    expected.adapt(rows(0)["number"])
    norm = L.Normalization()
    norm.adapt(data["number"])
    hvd.broadcast_variables(norm.variables, 0)
    x = rows(2)["number"]
    np.testing.assert_allclose(norm(x), expected(x), rtol=1e-6)
    norm, text = L.Normalization(), L.TextVectorization(output_sequence_length=2)
    if hvd.rank() == 0:  # the others have not built theirs
        norm.adapt(data["number"])
        text.adapt(data["word"])
    hvd.broadcast_layers([norm, text], 0)
    np.testing.assert_allclose(norm(x), expected(x), rtol=1e-6)
    tokens = hvd.allgather_object(text(tf.constant(WORDS)).numpy().tolist())
    assert all(other == tokens[0] for other in tokens)
    assert text.vocabulary_size() > 2
