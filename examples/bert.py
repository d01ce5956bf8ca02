"""A BERT encoder of Keras's own layers, with weights as Hugging Face gives them.

    config = BertConfig.from_json(folder / "config.json")
    encoder = build_encoder(config)
    load_weights(encoder, folder / "model.safetensors")
    states = encoder({"input_ids": ids, "attention_mask": mask})  # [rows, tokens, width]

The encoder is a functional model of layers that every Keras 3 has, so a file of it loads without
this one. Its layers are named as the weights in the file are, which is how they find each other.
Source: Devlin et al., BERT, arXiv 1810.04805; normalization comes after each block, as there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

# What else a config.json says, and has to.
EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_OF_THE_ENCODER = ("embeddings.", "encoder.")
# What files of BERT hold besides the encoder: poolers, heads, and the numbers 0, 1, 2...
_NOT_OF_THE_ENCODER = ("pooler.", "cls.", "classifier.", "qa_outputs.", "embeddings.position_ids")
_NAMED = 5  # so many weights a message names


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT, named as in its `config.json`.

    Attributes:
        vocab_size: rows of the embedding of tokens.
        hidden_size: width of the states.
        num_hidden_layers: blocks of attention and feed-forward.
        num_attention_heads: heads of each, which divide the width.
        intermediate_size: width inside of a feed-forward.
        max_position_embeddings: tokens of the longest row.
        type_vocab_size: kinds of segments; only the first is used here.
        layer_norm_eps: added to the variances.
        hidden_dropout_prob: of embeddings and outputs of blocks.
        attention_probs_dropout_prob: of the attention.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1

    @classmethod
    def from_json(cls, path: Path) -> BertConfig:
        """Read a `config.json`.

        Raises:
            OSError: the file can't be read.
            ValueError: it is not the JSON of a BERT, or of one that differs from this one.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from None
        for name, value in EXPECTED.items():
            if given.get(name, value) != value:
                raise ValueError(f"{path}: {name} is {given[name]!r}, and only {value!r} is known.")
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names[:6] if name not in given]:
            raise ValueError(f"{path} lacks {', '.join(missing)}: it is not the config of a BERT.")
        config = cls(**{name: given[name] for name in names if name in given})
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"{path}: {config.num_attention_heads} heads do not divide a width of "
                f"{config.hidden_size}."
            )
        return config


def build_encoder(config: BertConfig) -> keras.Model:
    """The encoder, with random weights.

    Returns:
        A model of {"input_ids": [rows, tokens], "attention_mask": [rows, tokens]}, integers, whose
        output is [rows, tokens, hidden_size]. The mask is 1 for tokens and 0 for what fills a row
        up at its end.
    """
    ids = keras.Input([None], dtype="int32", name="input_ids")
    mask = keras.Input([None], dtype="int32", name="attention_mask")
    states = _embedded(config, ids)
    attended = ops.expand_dims(ops.cast(mask, "bool"), (1, 2))
    for number in range(config.num_hidden_layers):
        states = _block(config, f"encoder.layer.{number}", states, attended)
    return keras.Model({"input_ids": ids, "attention_mask": mask}, states, name="bert")


def load_weights(encoder: keras.Model, path: Path) -> None:
    """Read the encoder's weights from a `safetensors` file.

    Args:
        encoder: what `build_encoder` made, or a model that was built upon it; its other layers
            stay as they are.
        path: the file. Its names may begin with "bert.", as those of models with a head do; heads
            and poolers are left out.

    Raises:
        ImportError: safetensors is not installed.
        OSError: there is no such file.
        ValueError: it is no whole safetensors file; or it lacks weights of the encoder, has them
            in other shapes, or has others that the encoder has no place for.
    """
    found = _read(path)
    own = [layer for layer in encoder.layers if layer.name.startswith(_OF_THE_ENCODER)]
    wanted = {weight.name: weight for layer in own for weight in _weights(layer)}
    problems = []
    for name, weight in wanted.items():
        if name not in found:
            problems.append(f"{name} {list(weight.shape)} is missing")
        elif found[name].shape != weight.shape:
            has = list(found[name].shape)
            problems.append(f"{name} is {has} in the file and {list(weight.shape)} in the config")
    problems += [f"the encoder has no {name}" for name in found if name not in wanted]
    if problems:
        more = len(problems) - _NAMED
        listed = "; ".join(problems[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"{path} does not hold the weights of its config.json: {listed}.")
    for name, weight in wanted.items():
        value = found[name].T if weight.transposed else found[name]
        weight.variable.assign(np.reshape(value, weight.variable.shape))


def _read(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file that may be the encoder's."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ImportError("reading weights needs safetensors: pip install 'hvdkit[ner]'") from None
    found = {}
    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            for name in names:
                short = re.sub("LayerNorm.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
                short = re.sub("LayerNorm.beta$", "LayerNorm.bias", short)
                if not short.startswith(_NOT_OF_THE_ENCODER):
                    found[short] = file.get_tensor(name).astype("float32")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}.") from None
    return found


class _Weight(NamedTuple):
    """A variable, and what the file has for it: there, outputs come before inputs."""

    name: str
    shape: tuple[int, ...]
    transposed: bool
    variable: Any


def _weights(layer: Any) -> Iterator[_Weight]:
    for variable in layer.weights:
        size = math.prod(variable.shape)
        if variable.name == "kernel":
            outputs = math.prod(layer.bias.shape)
            yield _Weight(f"{layer.name}.weight", (outputs, size // outputs), True, variable)
        elif variable.name == "embeddings":
            yield _Weight(f"{layer.name}.weight", tuple(variable.shape), False, variable)
        else:
            kind = "weight" if variable.name == "gamma" else "bias"
            yield _Weight(f"{layer.name}.{kind}", (size,), False, variable)


def _embedded(config: BertConfig, ids: Any) -> Any:
    def embedding(kind: str, rows: int, which: Any) -> Any:
        name = f"embeddings.{kind}_embeddings"
        return layers.Embedding(rows, config.hidden_size, _initializer(), name=name)(which)

    ones = ops.ones_like(ids)
    states = (
        embedding("word", config.vocab_size, ids)
        + embedding("position", config.max_position_embeddings, ops.cumsum(ones, axis=1) - ones)
        + embedding("token_type", config.type_vocab_size, ops.zeros_like(ids))
    )
    states = layers.LayerNormalization(epsilon=config.layer_norm_eps, name="embeddings.LayerNorm")(
        states
    )
    return layers.Dropout(config.hidden_dropout_prob)(states)


def _block(config: BertConfig, name: str, states: Any, attended: Any) -> Any:
    def dense(inputs: Any, units: int, path: str, activation: str | None = None) -> Any:
        layer = layers.Dense(
            units, activation, kernel_initializer=_initializer(), name=f"{name}.{path}.dense"
        )
        return layer(inputs)

    def added(inputs: Any, outputs: Any, path: str) -> Any:
        outputs = layers.Dropout(config.hidden_dropout_prob)(outputs)
        normalization = layers.LayerNormalization(
            epsilon=config.layer_norm_eps, name=f"{name}.{path}.LayerNorm"
        )
        return normalization(inputs + outputs)

    mixed = _attention(config, f"{name}.attention", states, attended)
    states = added(states, mixed, "attention.output")
    inner = dense(states, config.intermediate_size, "intermediate", "gelu")
    return added(states, dense(inner, config.hidden_size, "output"), "output")


def _attention(config: BertConfig, name: str, states: Any, attended: Any) -> Any:
    """Each token's mean of the values of all, weighted by how its query meets their keys."""
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def projected(which: str) -> Any:
        layer = layers.EinsumDense(
            "btd,dhk->bthk",
            (None, heads, width),
            bias_axes="hk",
            kernel_initializer=_initializer(),
            name=f"{name}.self.{which}",
        )
        return layer(states)

    scores = ops.einsum("bqhk,bshk->bhqs", projected("query"), projected("key")) * width**-0.5
    weights = layers.Softmax()(scores, mask=attended)
    weights = layers.Dropout(config.attention_probs_dropout_prob)(weights)
    mixed = ops.einsum("bhqs,bshk->bqhk", weights, projected("value"))
    output = layers.EinsumDense(
        "bthk,hkd->btd",
        (None, config.hidden_size),
        bias_axes="d",
        kernel_initializer=_initializer(),
        name=f"{name}.output.dense",
    )
    return output(mixed)


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)
