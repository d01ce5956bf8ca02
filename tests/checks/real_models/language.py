"""KerasHub's language models, with the sizes of toys, and a recurrent network."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
from checks.real_models import files, ways
from checks.real_models.training import ROWS, Compile, RealModel, classifying

layers, models = keras.layers, keras_hub.models
WORDS, LENGTH, CLASSES = 31, 6, 3
SIZES = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}


def tokens() -> np.ndarray:
    """Sequences in which a word follows from the one before; shorter ones end with zeros."""
    rng = np.random.default_rng(0)
    words = (rng.integers(1, WORDS, size=(ROWS, 1)) + 4 * np.arange(LENGTH)) % (WORDS - 1) + 1
    return np.where(mask(), words, 0).astype("int32")


def mask() -> np.ndarray:
    """Which of the words are no padding."""
    return np.arange(LENGTH) < 3 + (np.arange(ROWS) % 4)[:, None]


def sentences() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What BERT reads, and a class of each sentence."""
    x = {"token_ids": tokens(), "padding_mask": mask(), "segment_ids": np.zeros_like(tokens())}
    return x, tokens()[:, 0] % CLASSES


def words_alone() -> tuple[np.ndarray, np.ndarray]:
    return tokens(), sentences()[1]


def next_words() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What a causal model reads, the word that follows each word, and which of them count."""
    following = np.roll(tokens(), -1, axis=1)
    counts = np.roll(mask(), -1, axis=1) & mask()
    counts[:, -1] = False
    return {"token_ids": tokens(), "padding_mask": mask()}, following, counts.astype("float32")


def translations() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What T5 reads: a sentence, and its translation up to each word."""
    x, following, counts = next_words()
    encoder = {f"encoder_{name}": value for name, value in x.items()}
    decoder = {f"decoder_{name}": value[:, ::-1][:, ::-1] for name, value in x.items()}
    return {**encoder, **decoder}, (following + 3) % WORDS, counts


def generating(optimizer: Any) -> Compile:
    """As KerasHub compiles a causal model, with metrics of both kinds."""

    def compile_model(model: Any, wrap: Any) -> None:
        model.compile(
            wrap(optimizer()),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
            metrics=[keras.metrics.SparseTopKCategoricalAccuracy(5)],
        )

    return compile_model


def bert() -> keras.Model:
    backbone = models.BertBackbone(**SIZES, num_heads=2, dropout=0.0, max_sequence_length=LENGTH)
    return models.BertTextClassifier(backbone, num_classes=CLASSES, dropout=0.0)


def bert_with_a_frozen_backbone() -> keras.Model:
    model = bert()
    model.backbone.trainable = False
    return model


def gpt2() -> keras.Model:
    """Its embedding is its output layer, too."""
    backbone = models.GPT2Backbone(**SIZES, num_heads=2, dropout=0.0, max_sequence_length=LENGTH)
    return models.GPT2CausalLM(backbone)


def llama() -> keras.Model:
    backbone = models.LlamaBackbone(**SIZES, num_query_heads=4, num_key_value_heads=2)
    return models.LlamaCausalLM(backbone)


def t5() -> keras.Model:
    """Encoder and decoder read with one embedding."""
    backbone = models.T5Backbone(**SIZES, num_heads=2, dropout=0.0)
    decoded = backbone.output["decoder_sequence_output"]
    return keras.Model(backbone.input, layers.Dense(WORDS, name="words")(decoded), name="t5")


def lstm() -> keras.Model:
    """Masks go through all layers."""
    words = keras.Input((LENGTH,), dtype="int32")
    hidden = layers.Embedding(WORDS, 6, mask_zero=True)(words)
    hidden = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(hidden)
    hidden = layers.LSTM(5)(hidden)
    return keras.Model(words, layers.Dense(CLASSES)(hidden), name="lstm")


def adam() -> Any:
    return keras.optimizers.Adam(0.01, global_clipnorm=1.0)


def adamw() -> Any:
    """As transformers are trained: no decay of biases and scales."""
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale", "gamma", "beta"])
    return optimizer


BERT = RealModel(bert, sentences, classifying(adam, from_logits=True))
FROZEN_BERT = RealModel(
    bert_with_a_frozen_backbone,
    sentences,
    classifying(lambda: keras.optimizers.SGD(0.2), from_logits=True),
)
GPT2 = RealModel(gpt2, next_words, generating(adamw))
LLAMA = RealModel(llama, next_words, generating(adamw))
T5 = RealModel(t5, translations, generating(adam))
LSTM = RealModel(
    lstm,
    words_alone,
    classifying(lambda: keras.optimizers.RMSprop(0.01), from_logits=True),
)


def check_bert_over_ranks() -> None:
    ways.over_ranks(BERT)


def check_bert_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(BERT)


def check_bert_split() -> None:
    ways.split_over_devices(BERT, micro_batches=2)


def check_bert_in_a_pipeline() -> None:
    ways.pipeline(BERT, micro_batches=3)


def check_bert_in_a_pipeline_from_the_model() -> None:
    ways.pipeline(BERT, micro_batches=3, given=True)


def check_frozen_bert_over_ranks() -> None:
    ways.over_ranks(FROZEN_BERT)


def check_frozen_bert_split() -> None:
    ways.split_over_devices(FROZEN_BERT)


def check_frozen_bert_in_a_pipeline() -> None:
    ways.pipeline(FROZEN_BERT, micro_batches=2)


def check_gpt2_over_ranks() -> None:
    ways.over_ranks(GPT2)


def check_gpt2_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(GPT2)


def check_gpt2_split() -> None:
    ways.split_over_devices(GPT2)


def check_gpt2_in_a_pipeline() -> None:
    ways.pipeline(GPT2, micro_batches=2)


def check_llama_over_ranks() -> None:
    ways.over_ranks(LLAMA)


def check_llama_split() -> None:
    ways.split_over_devices(LLAMA, micro_batches=2)


def check_llama_in_a_pipeline() -> None:
    ways.pipeline(LLAMA, micro_batches=2)


def check_t5_over_ranks() -> None:
    ways.over_ranks(T5)


def check_t5_split() -> None:
    ways.split_over_devices(T5, micro_batches=2)


def check_t5_in_a_pipeline() -> None:
    ways.pipeline(T5, micro_batches=2)


def check_lstm_over_ranks() -> None:
    ways.over_ranks(LSTM)


def check_lstm_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(LSTM)


def check_lstm_split() -> None:
    ways.split_over_devices(LSTM, micro_batches=2)


def check_lstm_in_a_pipeline() -> None:
    ways.pipeline(LSTM, micro_batches=2)


def check_language_in_plain_keras() -> None:
    """What the checks before have written."""
    files.require_plain_keras_reads_them("keras_hub")
