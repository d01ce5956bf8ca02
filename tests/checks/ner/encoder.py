"""The encoder against a forward pass in NumPy, which knows only the names in the file."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import bert
import keras
import numpy as np
from checks.marks import long

from . import files

TWO_LAYERS = {**files.CONFIG, "num_hidden_layers": 2}
_erf = np.vectorize(math.erf)


def forward(
    values: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray, heads: int
) -> np.ndarray:
    """BERT as in arXiv 1810.04805, in float64; [rows, tokens, width]."""
    w = {name: value.astype("float64") for name, value in values.items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("encoder."))
    size = x.shape[-1] // heads
    for number in range(layers):
        of = f"encoder.layer.{number}"
        q, k, v = (dense(x, f"{of}.attention.self.{n}") for n in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in range(heads):
            own = np.s_[..., head * size : (head + 1) * size]
            scores = q[own] @ k[own].transpose(0, 2, 1) / math.sqrt(size)
            scores = np.where(mask[:, None, :] == 1, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[own] = weights / weights.sum(-1, keepdims=True) @ v[own]
        x = norm(x + dense(mixed, f"{of}.attention.output.dense"), f"{of}.attention.output")
        inner = dense(x, f"{of}.intermediate.dense")
        inner = inner * (1 + _erf(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{of}.output.dense"), f"{of}.output")
    return x


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    mask = np.ones([3, 7], "int32")
    mask[1, 4:] = mask[2, 1:] = 0
    return {
        "input_ids": rng.integers(0, files.CONFIG["vocab_size"], mask.shape).astype("int32"),
        "attention_mask": mask,
    }


def _require_forward(values: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> keras.Model:
    with TemporaryDirectory() as name:
        folder = files.write(Path(name), TWO_LAYERS, stored)
        config = bert.BertConfig.from_json(folder / "config.json")
        encoder = bert.build_encoder(config)
        bert.load_weights(encoder, folder / "model.safetensors")
    inputs = _inputs()
    expected = forward(values, inputs["input_ids"], inputs["attention_mask"], 2)
    np.testing.assert_allclose(np.asarray(encoder(inputs)), expected, atol=1e-5)
    return encoder


def check_outputs_are_those_of_numpy_and_the_file_needs_no_example() -> None:
    values = files.weights(TWO_LAYERS)
    encoder = _require_forward(values, values)
    with TemporaryDirectory() as name:
        file = Path(name) / "encoder.keras"
        encoder.save(file)
        loaded = keras.saving.load_model(file, custom_objects={})
    inputs = _inputs()
    np.testing.assert_array_equal(np.asarray(loaded(inputs)), np.asarray(encoder(inputs)))


@long
def check_names_of_models_with_heads_and_of_old_files() -> None:
    values = files.weights(TWO_LAYERS)
    stored = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in values.items()
    }
    stored["cls.predictions.bias"] = np.zeros(3, "float32")
    _require_forward(values, stored)
