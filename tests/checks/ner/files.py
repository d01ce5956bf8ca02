"""A small BERT with random weights, in files as Hugging Face gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "/"),
    *("ana", "lives", "in", "rome", "or", "oslo", "##x", "##y", "bob", "eats", "a", "b", "c"),
]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": len(PIECES) + 3,  # rows that the vocabulary does not use
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SENTENCES = """\
Ana\tB-person
lives\tO
in\tO
Rome\tB-place
.\tO

Bob\tB-person
Ana\tI-person
eats\tO

ANAX\tB-person
in\tO
Oslo\tB-place
Rome\tI-place
,\tO
or\tO
a/b\tO
"""


def weights(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names; outputs come before inputs."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for number in range(config["num_hidden_layers"]):
        of = f"encoder.layer.{number}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{of}.attention.{name}.weight"] = (width, width)
            shapes[f"{of}.attention.{name}.bias"] = (width,)
        shapes[f"{of}.intermediate.dense.weight"] = (inner, width)
        shapes[f"{of}.intermediate.dense.bias"] = (inner,)
        shapes[f"{of}.output.dense.weight"] = (width, inner)
        shapes[f"{of}.output.dense.bias"] = (width,)
        for name in ("attention.output", "output"):
            shapes[f"{of}.{name}.LayerNorm.weight"] = (width,)
            shapes[f"{of}.{name}.LayerNorm.bias"] = (width,)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape).astype("float32") for name, shape in shapes.items()}


def tokenizer(pieces: list[str] = PIECES) -> Tokenizer:
    """Word pieces of lower case, as of an uncased BERT."""
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_truncation(3)  # files have that, and padding, set for other uses
    made.enable_padding(length=5)
    return made


def plain_tokenizer() -> Tokenizer:
    """The same, as the example uses it."""
    made = tokenizer()
    made.no_truncation()
    made.no_padding()
    return made


def write(
    folder: Path,
    config: Mapping[str, Any] = CONFIG,
    values: Mapping[str, np.ndarray] | None = None,
    pieces: list[str] = PIECES,
) -> Path:
    """The three files of a model, and sentences; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    tokenizer(pieces).save(str(folder / "tokenizer.json"))
    save_file(dict(weights(config) if values is None else values), folder / "model.safetensors")
    (folder / "sentences.conll").write_text(SENTENCES)
    return folder
