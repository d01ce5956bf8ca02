"""A GPT of layers that divide over ranks, and the text that it writes.

A decoder-only Transformer with normalization before attention and feed-forward layer, learned
positions, and an output layer with weights of its own, so that a pipeline can cut it anywhere.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit import parallel
from hvdkit.parallel import TransformerShape

PRESETS = {
    "tiny": TransformerShape(4, 128, 4, 128, 1024),
    "mini": TransformerShape(6, 320, 5, 256, 4096),
    # Language Models are Unsupervised Multitask Learners (2019), table 2; their vocabulary of
    # 50257 is padded to a multiple of 128.
    "gpt2": TransformerShape(12, 768, 12, 1024, 50304),
    "gpt2-medium": TransformerShape(24, 1024, 16, 1024, 50304),
    "gpt2-large": TransformerShape(36, 1280, 20, 1024, 50304),
    "gpt2-xl": TransformerShape(48, 1600, 25, 1024, 50304),
    # GPT-3, arXiv 2005.14165, table 2.1. It gives the 13B model a width of 5140, which its 40
    # heads of 128 do not have.
    "gpt3-6.7b": TransformerShape(32, 4096, 32, 2048, 50304),
    "gpt3-13b": TransformerShape(40, 5120, 40, 2048, 50304),
    # OPT, arXiv 2205.01068, table 1.
    "opt-30b": TransformerShape(48, 7168, 56, 2048, 50304),
    "opt-66b": TransformerShape(64, 9216, 72, 2048, 50304),
    "gpt3-175b": TransformerShape(96, 12288, 96, 2048, 50304),
}


class Positions(keras.layers.Layer):
    """A learned vector for each position.

    Input: ids, [batch, sequence]. Output: [1, sequence, width].
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape: Any) -> None:
        """Make the vectors."""
        shape = (1, input_shape[1], self.width)
        self.table = self.add_weight(name="table", shape=shape, initializer=_normal())

    def call(self, ids: Any) -> Any:
        """The vectors, the same for every row."""
        return keras.ops.cast(self.table, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """One row."""
        return (1, input_shape[1], self.width)


def build_model(shape: TransformerShape, sequence_parallel: bool = False) -> keras.Model:
    """A GPT from ids, [batch, context], to logits, [batch, context, vocabulary / tensor].

    Args:
        shape: its sizes.
        sequence_parallel: divide what is between the divided layers along the sequence.
    """
    ids = keras.Input((shape.context,), dtype="int32", name="ids")
    on_parts = {"sequence_parallel": sequence_parallel}
    positions = Positions(shape.width, name="positions")(ids)
    if sequence_parallel:
        positions = parallel.ScatterSequence()(positions)
    tokens = parallel.VocabularyParallelEmbedding(
        shape.vocabulary, shape.width, embeddings_initializer=_normal(), name="tokens", **on_parts
    )
    # Not the Add layer, which takes the one row of the positions for the size of all batches.
    x = keras.ops.add(tokens(ids), positions)
    for number in range(shape.layers):
        x = _block(x, shape, f"block_{number}", sequence_parallel)
    logits = parallel.ColumnParallelDense(
        shape.vocabulary, use_bias=False, kernel_initializer=_normal(), name="logits", **on_parts
    )
    return keras.Model(ids, logits(_normalized(x, "last_norm", sequence_parallel)), name="gpt")


def _block(x: Any, shape: TransformerShape, name: str, sequence_parallel: bool) -> Any:
    """A Transformer layer; the last of its parts has its name, for `stage_cuts`."""
    options = {"sequence_parallel": sequence_parallel, "kernel_initializer": _normal()}
    attention = parallel.HeadParallelAttention(
        shape.heads, shape.width // shape.heads, name=f"{name}_attention", **options
    )
    h = _normalized(x, f"{name}_attention_norm", sequence_parallel)
    x = keras.layers.Add(name=f"{name}_attended")([x, attention(h, h, use_causal_mask=True)])
    h = _normalized(x, f"{name}_norm", sequence_parallel)
    h = parallel.ColumnParallelDense(
        4 * shape.width, activation="gelu", name=f"{name}_up", **options
    )(h)
    options["kernel_initializer"] = _normal()
    h = parallel.RowParallelDense(shape.width, name=f"{name}_down", **options)(h)
    return keras.layers.Add(name=name)([x, h])


def _normalized(x: Any, name: str, sequence_parallel: bool) -> Any:
    if not sequence_parallel:
        return keras.layers.LayerNormalization(name=name)(x)
    layer = keras.layers.LayerNormalization(name=f"{name}_layer")
    return parallel.SequenceParallel(layer, name=name)(x)


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)


def stage_cuts(shape: TransformerShape, stages: int) -> list[str]:
    """After which layers to cut the model into stages of equally many Transformer layers."""
    each = shape.layers // stages
    return [f"block_{stage * each - 1}" for stage in range(1, stages)]


def generate(
    model: keras.Model,
    prompt: list[int],
    shape: TransformerShape,
    mesh: hvd.Mesh,
    *,
    length: int,
    temperature: float,
    top_k: int,
    seed: int,
) -> list[int]:
    """Continue a text; every rank calls it, with the same arguments.

    Args:
        model: from `build_model`, or a `PipelineModel` of it.
        prompt: ids to begin with, one or more.
        shape: the model's.
        mesh: the mesh.
        length: how many tokens to draw.
        temperature: what logits are divided by; 0 for always the most likely token.
        top_k: draw among so many most likely tokens; 0 for all.
        seed: of the draws.

    Returns:
        The prompt and the tokens drawn, the same on all ranks of a replica.
    """
    rng = np.random.default_rng(seed)
    tokens = list(prompt)
    for _ in range(length):
        seen = tokens[-shape.context :]
        # What stands after a position does not reach it, so the rest is zeros.
        ids = np.zeros((1, shape.context), "int32")
        ids[0, : len(seen)] = seen
        own = np.asarray(model.predict_on_batch(ids)[0, len(seen) - 1], "float32")
        if mesh.tensor > 1:
            own = hvd.allgather(own, name="logits", process_set=mesh.tensor_set)
        tokens.append(_draw(own, temperature, top_k, rng))
    return tokens


def _draw(logits: np.ndarray, temperature: float, top_k: int, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    if 0 < top_k < len(logits):
        logits = np.where(logits < np.sort(logits)[-top_k], -np.inf, logits)
    scaled = logits.astype("float64") / temperature
    probabilities = np.exp(scaled - scaled.max())
    return int(rng.choice(len(logits), p=probabilities / probabilities.sum()))
