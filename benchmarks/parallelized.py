"""A small GPT that `hvd.parallelize` divides on four ranks, and its picture.

mpirun -np 4 python benchmarks/parallelized.py docs/images/parallelized.png
"""

from __future__ import annotations

import sys

import keras

import hvdkit as hvd

VOCABULARY, LENGTH, FEATURES, HEADS, BLOCKS = 512, 64, 128, 4, 2


def gpt() -> keras.Model:
    """Of Keras's layers alone."""
    ids = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, FEATURES, name="embedding")(ids)
    for number in range(BLOCKS):
        h = keras.layers.LayerNormalization(name=f"norm_{number}a")(x)
        attention = keras.layers.MultiHeadAttention(
            HEADS, FEATURES // HEADS, name=f"attention_{number}"
        )
        x = x + attention(h, h, use_causal_mask=True)
        h = keras.layers.LayerNormalization(name=f"norm_{number}b")(x)
        h = keras.layers.Dense(4 * FEATURES, activation="gelu", name=f"up_{number}")(h)
        x = x + keras.layers.Dense(FEATURES, name=f"down_{number}")(h)
    return keras.Model(ids, keras.layers.Dense(VOCABULARY, name="head")(x), name="gpt")


def main(path: str) -> None:
    """Divide it over two stages of two ranks, and draw that."""
    hvd.init()
    keras.utils.set_random_seed(1)
    model = hvd.parallelize(gpt(), hvd.Mesh(pipeline=2, tensor=2))
    hvd.parallel.draw(model, path)


if __name__ == "__main__":
    main(sys.argv[1])
