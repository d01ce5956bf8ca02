"""A BERT that labels words: built, fine-tuned whole or by LoRA, and saved for those who use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import bert
import keras
from keras import layers
from tokenizers import Tokenizer

import hvdkit as hvd

_ADAPTED = (".self.query", ".self.value")  # of attention: section 4.2 of arXiv 2106.09685


def build_tagger(config: bert.BertConfig, labels: int) -> keras.Model:
    """An encoder, and a classifier of its states; in mixed precision the logits are float32.

    Returns:
        A model whose inputs are the encoder's, and whose output is [rows, pieces, labels].
    """
    encoder = bert.build_encoder(config)
    states = layers.Dropout(config.hidden_dropout_prob)(encoder.output)
    logits = layers.Dense(labels, name="classifier", dtype="float32")(states)
    return keras.Model(encoder.input, logits, name="tagger")


def adapt(tagger: keras.Model, rank: int) -> None:
    """Train only the classifier and low-rank adapters of queries and values (LoRA)."""
    for layer in tagger.layers:
        if layer.name != "classifier":
            for weight in layer.weights:
                weight.trainable = False
        if layer.name.endswith(_ADAPTED):
            layer.enable_lora(rank)


def optimizer_of(
    learning_rate: float, steps: int, warmup: float, weight_decay: float, clip_norm: float
) -> keras.optimizers.Optimizer:
    """AdamW, with a linear warm-up and a cosine to zero; biases and normalizations do not decay.

    Args:
        learning_rate: after the warm-up.
        steps: of the whole training.
        warmup: the share of them that is warm-up.
        weight_decay: of a step, in units of the learning rate.
        clip_norm: of all gradients together.
    """
    rising = round(steps * warmup)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rising), warmup_target=learning_rate, warmup_steps=rising
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay, global_clipnorm=clip_norm
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def save(
    tagger: keras.Model,
    config: bert.BertConfig,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    folder: Path,
) -> None:
    """Write `model.keras`, `labels.json` and `tokenizer.json`; every rank calls it.

    The model in the file is of Keras's own layers, float32 and undivided, with the adapters of LoRA
    in their kernels. The tokenizer cuts after the encoder's last position.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = folder / "trained.weights.h5"
    tagger.save_weights(trained)  # of a divided model every rank has a part
    hvd.barrier()
    if hvd.rank() == 0:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        plain = build_tagger(config, len(labels))
        keras.config.set_dtype_policy(policy)
        plain.load_weights(trained)
        plain.save(folder / "model.keras")
        trained.unlink()
        (folder / "labels.json").write_text(json.dumps(list(labels)) + "\n", encoding="utf-8")
        tokenizer.enable_truncation(config.max_position_embeddings)
        tokenizer.save(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
    hvd.barrier()
