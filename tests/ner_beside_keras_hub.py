"""Real weights in examples/bert.py and in KerasHub's BertBackbone: the same outputs.

python tests/ner_beside_keras_hub.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bert
import keras
import keras_hub
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TEXTS = (
    "From Green Newsfeed : AHFA extends deadline for Sage Award to Nov. 5 http://tinyurl.com/24agj38",
    "Hello",
    "Sonmarg , said a military spokesman .",
)


def backbone_of(config: bert.BertConfig, weights: dict[str, np.ndarray]) -> Any:
    """KerasHub's BERT with the weights, put there without examples/bert.py.

    Its own GELU is the approximation by tanh, and these weights were trained with the exact one.
    """
    made = keras_hub.models.BertBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        max_sequence_length=config.max_position_embeddings,
        num_segments=config.type_vocab_size,
    )

    def give(layer: Any, name: str) -> None:
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        shapes = [tuple(each.shape) for each in layer.weights]
        layer.set_weights([kernel.T.reshape(shapes[0]), bias.reshape(shapes[1])])

    for name, path in (
        ("token_embedding", "word_embeddings"),
        ("position_embedding", "position_embeddings"),
        ("segment_embedding", "token_type_embeddings"),
    ):
        made.get_layer(name).set_weights([weights[f"embeddings.{path}.weight"]])
    give(made.get_layer("embeddings_layer_norm"), "embeddings.LayerNorm")
    for number in range(config.num_hidden_layers):
        block, of = made.get_layer(f"transformer_layer_{number}"), f"encoder.layer.{number}"
        attention = block._self_attention_layer
        give(attention._query_dense, f"{of}.attention.self.query")
        give(attention._key_dense, f"{of}.attention.self.key")
        give(attention._value_dense, f"{of}.attention.self.value")
        give(attention._output_dense, f"{of}.attention.output.dense")
        give(block._self_attention_layer_norm, f"{of}.attention.output.LayerNorm")
        give(block._feedforward_intermediate_dense, f"{of}.intermediate.dense")
        block._feedforward_intermediate_dense.activation = keras.activations.gelu
        give(block._feedforward_output_dense, f"{of}.output.dense")
        give(block._feedforward_layer_norm, f"{of}.output.LayerNorm")
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    config = bert.BertConfig.from_json(folder / "config.json")
    encoder = bert.build_encoder(config)
    bert.load_weights(encoder, folder / "model.safetensors")
    other = backbone_of(config, load_file(folder / "model.safetensors"))

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(TEXTS))
    ids = np.array([each.ids for each in encodings], "int32")
    mask = np.array([each.attention_mask for each in encodings], "int32")
    own = np.asarray(encoder({"input_ids": ids, "attention_mask": mask}))
    expected = np.asarray(
        other({"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)})[
            "sequence_output"
        ]
    )
    real = mask == 1
    difference = np.abs(own - expected)[real].max()
    print(f"{real.sum()} tokens, largest output {np.abs(expected[real]).max():.3f}")
    assert np.abs(expected[real]).max() > 0.1
    assert difference < 1e-4, difference
    print(f"the same to 1e-4: {difference:.1e}")


if __name__ == "__main__":
    main()
