"""What `hvdkit plan` reads from Keras's models, and what it says that hvdkit's exchanges send."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
import tensorflow as tf

import hvdkit as hvd
from hvdkit.planner.exchange_costs import EXCHANGES
from hvdkit.planner.keras_model import UnknownSizeError, measured_model
from hvdkit_cli.errors import CommandError
from hvdkit_cli.plan.options import _from_keras

pytestmark = pytest.mark.quick

SHAPES = [(256, 512), (512,), (512, 64), (64,), (3, 3)]


@pytest.mark.parametrize(
    ("name", "exchange"),
    [
        ("all-reduce", lambda: hvd.exchange.AllReduce()),
        ("bf16", lambda: hvd.exchange.AllReduce(compression=hvd.Compression.bf16)),
        ("int8", lambda: hvd.exchange.AllReduce(hvd.exchange.Int8())),
        (
            "1-bit",
            lambda: hvd.exchange.AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit())),
        ),
        ("top-1%", lambda: hvd.exchange.AllReduce(hvd.exchange.TopK(0.01))),
        ("powersgd-4", lambda: hvd.exchange.AllReduce(hvd.exchange.PowerSGD(4))),
    ],
)
def test_bytes_are_those_of_the_exchange(name: str, exchange: object) -> None:
    tensors = [tf.TensorSpec(shape, tf.float32) for shape in SHAPES]
    sent = exchange().traffic(tensors)  # type: ignore[operator]
    weights = sum(tensor.shape.num_elements() for tensor in tensors)
    matrices = [shape for shape in SHAPES if len(shape) == 2]
    reduced, gathered = EXCHANGES[name].given(weights, matrices)
    # Scales of a block, or of a tensor, are counted by the exchange only.
    assert sent.reduced == pytest.approx(reduced, rel=0.01)
    assert sent.gathered == pytest.approx(gathered, rel=0.03)


def test_layers_are_counted() -> None:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.SeparableConv2D(4, 3, padding="same")(x)
    x = keras.layers.Conv2DTranspose(2, 3, strides=2, padding="same")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    found = measured_model(model)
    by_hand = 64 * 8 * 27 + 64 * 8 * 9 + 64 * (8 * 9 + 8 * 4) + 64 * 4 * 2 * 9 + 512 * 10
    assert found.flops_of_row == 2 * by_hand
    assert found.parameters == model.count_params()
    assert found.kept_of_row == 64 * 8 + 64 * 8 + 64 * 4 + 512 + 512 + 10


def test_tokens_attention_and_recurrence() -> None:
    tokens = keras.Input((12,), dtype="int32")
    x = keras.layers.Embedding(50, 8)(tokens)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.LSTM(8)(x)
    found = measured_model(keras.Model(tokens, x))
    projections = 4 * 12 * 8 * 8
    scores = 2 * 12**2 * 2 * 4
    recurrence = 12 * (8 + 8) * 4 * 8
    assert found.flops_of_row == 2 * (projections + scores + recurrence)
    assert found.tokens_of_row == 12


def test_unknown_sizes_are_refused() -> None:
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, name="first")(inputs))
    with pytest.raises(UnknownSizeError, match="first returns"):
        measured_model(model)
    with pytest.raises(UnknownSizeError, match="not built"):
        measured_model(keras.Sequential([keras.layers.Dense(2)]))
    plain = keras.Input((3,))
    with pytest.raises(UnknownSizeError, match="no weights"):
        measured_model(keras.Model(plain, keras.layers.ReLU()(plain)))


class OfCode(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2)

    def call(self, x: object) -> object:
        return self.inner(x)


def test_a_model_of_code_is_refused() -> None:
    model = OfCode()
    model(tf.zeros((1, 3)))
    with pytest.raises(UnknownSizeError, match="--parameters and --flops"):
        measured_model(model)


def test_from_a_file_and_from_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    model.save(tmp_path / "m.keras")
    assert _from_keras(str(tmp_path / "m.keras")).parameters == 20
    source = "import keras\n\ndef make():\n    return keras.Sequential([keras.Input((3,)), "
    (tmp_path / "made_here.py").write_text(f"{source}keras.layers.Dense(7)])\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _from_keras("made_here:make").parameters == 28
    with pytest.raises(CommandError, match="nothing"):
        _from_keras("made_here:nothing")
    unknown = keras.Input((None, 3))
    keras.Model(unknown, keras.layers.Dense(2, name="first")(unknown)).save(tmp_path / "u.keras")
    with pytest.raises(CommandError, match="does not know the size of what first returns"):
        _from_keras(str(tmp_path / "u.keras"))
