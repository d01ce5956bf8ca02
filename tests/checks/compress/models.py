"""Small models to be made smaller, and their rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

layers = keras.layers
WORDS, LENGTH, WIDTH, CLASSES = 13, 5, 8, 3


def tagger(seed: int, blocks: int = 1, heads: int = 2, **last: Any) -> keras.Model:
    """A transformer that gives logits of a class for each word."""
    keras.utils.set_random_seed(seed)
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(words)
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(heads, 4)(x, x))
        inner = layers.Dropout(0.0)(layers.Dense(12, "gelu")(x))
        x = layers.LayerNormalization()(x + layers.Dense(WIDTH)(inner))
    return keras.Model(words, layers.Dense(CLASSES, **last)(x))


def plain_student(seed: int) -> keras.Model:
    """A small tagger without dropout or statistics, which gives probabilities."""
    keras.utils.set_random_seed(seed)
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, 4)(words)
    return keras.Model(words, layers.Dense(CLASSES, "softmax")(layers.Dense(6, "tanh")(x)))


def teacher(seed: int) -> keras.Model:
    """A tagger with dropout, and with statistics that are not those of a batch."""
    keras.utils.set_random_seed(seed)
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.BatchNormalization()(layers.Embedding(WORDS, WIDTH)(words))
    x = layers.Dropout(0.5)(layers.Dense(12, "relu")(x))
    model = keras.Model(words, layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1, w.shape) * 2 for w in model.get_weights()])
    return model


def sentences(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words [rows, time], a class of each, and weights that leave out the padding."""
    rng = np.random.default_rng(3)
    x = rng.integers(1, WORDS, (count, LENGTH))
    lengths = rng.integers(2, LENGTH + 1, (count, 1))
    counts = (np.arange(LENGTH) < lengths).astype("float32")
    return (x * counts.astype(int)).astype("int32"), x % CLASSES, counts


def multilayer(seed: int) -> keras.Model:
    """Dense layers with all that may stand between two of them; none of it gives 0 for 0."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(16, "sigmoid", name="first"),
            layers.Dense(12, name="second"),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.Dropout(0.1),
            layers.Dense(3, name="last"),
        ]
    )


def equal_on_all_ranks(values: Any) -> None:
    """Assert that every rank holds the same arrays, to the bit."""
    import hvdkit as hvd

    own = [np.asarray(value) for value in values]
    for other in hvd.allgather_object(own):
        for mine, theirs in zip(own, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def kernels(model: Any) -> list[np.ndarray]:
    """The kernels of a model."""
    return [np.asarray(v) for v in model.trainable_variables if v.path.endswith("kernel")]
