"""Students of some of the blocks of a teacher."""

from __future__ import annotations

import keras
import numpy as np
from checks.compress.models import sentences, tagger

import hvdkit as hvd


def check_every_second_block_with_its_weights() -> None:
    teacher = tagger(1, blocks=3)
    x = sentences(4)[0]
    every = hvd.compress.student_of(teacher, keep=[0, 1, 2])
    np.testing.assert_array_equal(every(x), teacher(x))
    student = hvd.compress.student_of(teacher)
    by_hand = tagger(5, blocks=2)
    own = teacher.get_weights()
    size = (len(own) - len(tagger(1, blocks=0).get_weights())) // 3
    by_hand.set_weights([*own[: 1 + size], *own[1 + 2 * size :]])
    np.testing.assert_array_equal(student(x), by_hand(x))
    student.set_weights([0 * w for w in student.get_weights()])
    assert np.abs(teacher(x)).max() > 0, "weights of its own"


def check_blocks_of_one_layer_in_nested_models() -> None:
    """As in a classifier of KerasHub: layers that take a mask, in a model inside a model."""
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((5, 8)), keras.Input((5,), dtype="bool")
    y = keras.layers.Dense(8)(x)
    for _ in range(5):
        y = keras.layers.MultiHeadAttention(2, 4)(y, y, attention_mask=mask[:, None])
    inner = keras.Model([x, mask], y, name="backbone")
    z = keras.layers.Dense(3)(inner([x, mask])[:, 0])
    teacher = keras.Model([x, mask], z, name="classifier")
    student = hvd.compress.student_of(teacher)
    block = inner.layers[-1].count_params()
    assert student.count_params() == teacher.count_params() - 2 * block
    rows = [np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32"), np.eye(5)[:4] < 1]
    every = hvd.compress.student_of(teacher, keep=range(5))
    np.testing.assert_allclose(every(rows), teacher(rows), atol=1e-6)
    assert np.abs(np.asarray(student(rows)) - np.asarray(teacher(rows))).max() > 1e-3
