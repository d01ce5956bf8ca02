"""Operations of models against closed forms and published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from hvdkit.monitoring.readings.flops import ModelFlops, model_flops
from hvdkit.monitoring.readings.products import product_of

pytestmark = pytest.mark.quick

ROWS = 4


def counted(inputs: Any, outputs: Any, *, frozen: bool = False) -> ModelFlops:
    model = keras.Model(inputs, outputs)
    model.trainable = not frozen
    specs = [tf.TensorSpec((ROWS, *x.shape[1:]), x.dtype) for x in model.inputs]
    return model_flops(model, specs[0] if len(specs) == 1 else specs)


def of(layer: Any, shape: tuple[int, ...], *, calls: int = 1) -> ModelFlops:
    inputs = keras.Input(shape)
    return counted(inputs, layer(*[inputs] * calls))


@pytest.mark.parametrize(
    ("layer", "shape", "multiplications"),
    [
        (lambda: layers.Dense(20), (10,), 200),
        (lambda: layers.Dense(20), (3, 10), 600),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 5)), (3, 10), 600),
        (lambda: layers.Conv1D(3, 3, padding="causal"), (9, 2), 9 * 18),
        (lambda: layers.Conv2D(8, 3, strides=2, padding="same"), (8, 8, 4), 16 * 9 * 32),
        (lambda: layers.Conv2D(8, 3, groups=2), (8, 8, 4), 36 * 9 * 16),
        (lambda: layers.Conv2D(8, 3, dilation_rate=2), (8, 8, 4), 16 * 9 * 32),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 36 * 9 * 8),
        (lambda: layers.SeparableConv2D(8, 3), (8, 8, 4), 36 * 9 * 4 + 36 * 32),
        (lambda: layers.Conv2DTranspose(6, 3, strides=2), (8, 8, 4), 64 * 9 * 24),
        (lambda: layers.Conv3D(3, 3), (6, 6, 6, 2), 64 * 27 * 6),
        (lambda: layers.LSTM(3), (7, 5), 7 * 12 * (5 + 3)),
        (lambda: layers.LSTM(3, unroll=True), (7, 5), 7 * 12 * (5 + 3)),
        (lambda: layers.Bidirectional(layers.LSTM(3)), (7, 5), 2 * 7 * 12 * (5 + 3)),
        (lambda: layers.GRU(3, return_sequences=True), (7, 5), 7 * 9 * (5 + 3)),
        (lambda: layers.BatchNormalization(), (10,), 0),
        (lambda: layers.Dropout(0.5), (10,), 0),
    ],
)
def test_operations_of_layers(
    layer: Callable[[], Any], shape: tuple[int, ...], multiplications: int
) -> None:
    assert of(layer(), shape).forward == 2 * multiplications


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_operations_of_attention(policy: str) -> None:
    length, width, heads, size = 9, 16, 4, 5
    projections = 4 * length * width * heads * size
    attention = 2 * heads * length * length * size
    layer = layers.MultiHeadAttention(heads, size, dtype=policy)
    flops = of(layer, (length, width), calls=2)
    assert flops.forward == 2 * (projections + attention)
    # The input of the first three projections needs no gradient.
    assert flops.per_row == 3 * flops.forward - 2 * projections * 3 / 4


def test_operations_of_a_gpt() -> None:
    length, width, heads, blocks, words = 16, 24, 3, 2, 50
    tokens = keras.Input((length,), dtype="int32")
    x = layers.Embedding(words, width)(tokens)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(heads, width // heads)
        x = x + attention(y, y, use_causal_mask=True)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
    flops = counted(tokens, layers.Dense(words)(layers.LayerNormalization()(x)))
    weights = blocks * 12 * width * width + width * words
    attended = blocks * 2 * length * width
    # Appendix B of PaLM: 6 N + 12 L H Q T for a token.
    assert flops.per_row == length * 6 * (weights + attended)
    assert flops.forward is not None
    assert flops.per_row == 3 * flops.forward


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "published", "digit"), [("MobileNetV2", 300e6, 1e6), ("ResNet50", 3.8e9, 0.1e9)]
)
def test_operations_of_published_models(name: str, published: float, digit: float) -> None:
    """Sandler et al., 2018, table 4: 300M multiplications; He et al., 2015, table 1: 3.8e9."""
    model = getattr(keras.applications, name)(weights=None)
    flops = model_flops(model, tf.TensorSpec((1, 224, 224, 3)))
    assert flops.forward is not None
    assert flops.per_row is not None
    assert abs(flops.forward / 2 - published) < digit
    assert 2.95 < flops.per_row / flops.forward < 3


def test_what_is_frozen_needs_less() -> None:
    def of_frozen(*frozen: int) -> tuple[float | None, float | None]:
        stack = [layers.Dense(10, trainable=i not in frozen) for i in range(3)]
        model = keras.Sequential([keras.Input((10,)), *stack])
        flops = model_flops(model, np.zeros((ROWS, 10)))
        return flops.forward, flops.per_row

    assert of_frozen() == (600, 600 + 200 + 400 + 400)
    assert of_frozen(0, 1) == (600, 600 + 200)
    assert of_frozen(1, 2) == (600, 600 + 200 + 200 + 200)
    assert of_frozen(0, 1, 2) == (600, 600)


class Product(layers.Layer):
    """Multiplies with a square matrix, somehow."""

    def __init__(self, how: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.how = how

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, x: Any) -> Any:
        return self.how(x, self.w)


def loop(x: Any, w: Any) -> Any:
    return ops.fori_loop(2, 9, lambda _, s: ops.matmul(s, w), x)


def mapped(x: Any, w: Any) -> Any:
    return tf.map_fn(lambda row: tf.matmul(row[None], w)[0], x)


def twice(x: Any, w: Any) -> Any:
    return ops.matmul(ops.matmul(x, w), w)


@pytest.mark.parametrize(
    ("how", "forward", "backward"),
    [
        (loop, 7, 14),
        (mapped, 1, 1),
        (twice, 2, 3),
        (keras.remat(twice), 2, 3),
        (lambda x, w: ops.matmul(ops.stop_gradient(ops.matmul(x, w)), w), 2, 1),
        (lambda x, w: ops.scan(lambda c, _: (ops.matmul(c, w), c), x, length=4)[0], 4, 8),
        (lambda x, w: ops.cond(ops.sum(x) > 0, lambda: x @ w, lambda: 2 * x @ w), 1, 1),
        (lambda x, w: tf.einsum("...a,ab->...b", x, w), 1, 1),
        (lambda x, w: tf.einsum("ij,jk,kl->il", x, w, w), 2, None),
        (lambda x, w: tf.einsum("ij->ji", tf.einsum("ij,jk->ki", x, w)), 1, 1),
    ],
)
def test_operations_of_graphs(how: Any, forward: int, backward: int | None) -> None:
    flops = of(Product(how), (6,))
    one = 2 * 6 * 6
    assert flops.forward == forward * one, flops.unknown
    if backward is not None:
        assert flops.per_row == (forward + backward) * one


def python(x: Any, w: Any) -> Any:
    return tf.ensure_shape(tf.numpy_function(np.matmul, [x, w], tf.float32), (None, 6))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            lambda x, w: ops.while_loop(
                lambda s: ops.sum(s) < 5, lambda s: (ops.matmul(s, w),), (x,)
            )[0],
            "how often the loop",
        ),
        (
            lambda x, w: ops.cond(ops.sum(x) > 0, lambda: ops.matmul(x, w), lambda: x),
            "take different numbers",
        ),
        (python, "nobody counts those of PyFunc"),
        (lambda x, w: ops.transpose(ops.solve(w, ops.transpose(x))), "those of MatrixSolve"),
        (lambda x, w: tf.math.real(tf.signal.fft(tf.cast(x @ w, tf.complex64))), "those of FFT"),
    ],
)
def test_operations_that_nobody_can_count_are_not_guessed(how: Any, why: str) -> None:
    flops = of(Product(how), (6,))
    assert flops.per_row is None
    assert flops.forward is None
    assert why in flops.unknown


class OwnStep(keras.Model):
    def call(self, x: Any) -> Any:
        return x

    def train_step(self, data: Any) -> Any:
        return {}


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


class Partly(keras.Sequential):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.unused = self.add_weight(shape=(2,), name="unused")


def test_models_and_inputs_that_can_not_be_counted() -> None:
    plain = keras.Sequential([keras.Input((10,)), layers.Dense(3)])
    stack = [keras.Input((10,)), layers.Dense(3)]
    own = OwnStep()
    own.build((None, 10))
    given = np.zeros((ROWS, 10), "float32")
    for model, inputs, why in (
        (keras.Sequential([layers.Dense(3)]), given, "has no weights yet"),
        (own, given, "a train_step of its own"),
        (OwnLoss(stack), given, "a compute_loss of its own"),
        (Partly([keras.Input((10,)), layers.Dense(3)]), given, "does not read partly/unused"),
        (plain, given[:, :9], "the model can't be called so: ValueError: "),
        (plain, tf.TensorSpec((None, 10)), "no fixed shape with rows: (None, 10)"),
        (plain, given[:0], "no fixed shape with rows: (0, 10)"),
        (plain, [given, given[:2]], "do not have the same rows"),
        (plain, "text", "an input is no array: str"),
        (plain, tf.ragged.constant([[1.0], [2.0, 3.0]]), "no fixed shape"),
        (plain, tf.sparse.from_dense(given), "no fixed shape"),
    ):
        flops = model_flops(model, inputs)
        assert flops.per_row is None
        assert why in flops.unknown


def test_counting_changes_nothing() -> None:
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    before = [variable.numpy() for variable in model.variables]
    assert model_flops(model, np.ones((ROWS, 6))).per_row == 144
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    model.compile("sgd", "mse")
    model.fit(np.ones((ROWS, 6)), np.ones((ROWS, 6)), verbose=0)


def test_recurrent_layers_of_gpus() -> None:
    steps, rows, size, units = 7, 4, 5, 3
    weights = 4 * units * (size + units)
    with tf.Graph().as_default():
        state = tf.zeros((1, rows, units))
        made = tf.raw_ops.CudnnRNNV3(
            input=tf.zeros((steps, rows, size)),
            input_h=state,
            input_c=state,
            params=tf.zeros((weights + 8 * units,)),
            sequence_lengths=tf.fill([rows], steps),
            rnn_mode="lstm",
        )
    product = product_of(made.output.op)
    assert product is not None
    assert product.flops == 2 * steps * rows * weights
