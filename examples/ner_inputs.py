"""What the training of examples/ner.py needs, read and checked before it begins."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import bert
import ner_data
from tokenizers import Tokenizer

_FILES = ("config.json", "tokenizer.json", "model.safetensors")


def files_of(weights: str) -> Path:
    """The folder with the weights: a path as it is, a hub's name downloaded.

    Raises:
        ImportError, OSError, ValueError: it can't be had.
    """
    folder = Path(weights)
    if folder.is_dir():
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise ValueError(f"{folder} lacks {', '.join(missing)}.")
        return folder
    if folder.is_absolute() or weights.count("/") != 1:
        raise ValueError(f"{weights} is neither a folder nor a name on the hub, such as a/b.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError("reading from the hub needs: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(weights, allow_patterns=list(_FILES)))
    except Exception as error:
        raise ValueError(
            f"there is no folder {weights}, and {weights} can't be had from Hugging Face's hub: "
            f"{error}"
        ) from None


@dataclass(frozen=True)
class Task:
    """What is read before anything is trained."""

    config: bert.BertConfig
    encoder_file: Path
    tokenizer: Tokenizer
    labels: list[str]
    sentences: dict[str, list[ner_data.Sentence]]
    rows: dict[str, list[ner_data.Row]]
    notes: list[str]


def read(args: argparse.Namespace) -> Task:
    """Read all files but the weights.

    Raises:
        ValueError, OSError, ImportError: what is wrong with the first file with which something is.
    """
    folder = files_of(args.weights)
    config = bert.BertConfig.from_json(folder / "config.json")
    tokenizer = ner_data.load_tokenizer(folder / "tokenizer.json", config.vocab_size)
    longest = args.length or config.max_position_embeddings
    if not 3 <= longest <= config.max_position_embeddings:
        raise ValueError(
            f"--length {longest}: it has to be from 3 to {config.max_position_embeddings}, the "
            "positions of the encoder."
        )
    paths = {"train": args.train, "dev": args.dev, "test": args.test}
    sentences, rows, notes = {}, {}, []
    for name, path in paths.items():
        if path is None:
            continue
        sentences[name] = ner_data.read_conll(path)
        found = ner_data.rows_of(sentences[name], tokenizer, longest)
        if more := len(found) - len({row.sentence for row in found}):
            notes.append(
                f"{path}: {more} rows more than sentences: those of over {longest} pieces are read "
                "in windows of whole words"
            )
        rows[name] = ner_data.by_length(found, args.seed)
    labels = ner_data.labels_of(sentences["train"])
    if len(labels) == 1:
        raise ValueError(f"{args.train} has no entities: every label is O.")
    return Task(config, folder / "model.safetensors", tokenizer, labels, sentences, rows, notes)
