"""The text of Python's standard library as tokens: a byte-pair tokenizer, trained on it."""

from __future__ import annotations

import hashlib
import os
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import hvdkit as hvd

END_OF_TEXT = "<|endoftext|>"
DEFAULT_TEXT = Path(sysconfig.get_path("stdlib"))
DEFAULT_CACHE = Path(tempfile.gettempdir()) / "hvdkit-gpt"
_VALIDATION_FILES = 20  # of so many files one is for validation
_FILES_AT_ONCE = 256


@dataclass(frozen=True)
class Corpus:
    """A text as tokens.

    Attributes:
        tokenizer: what made them, as Hugging Face's JSON.
        train: ids of the tokens to train on.
        validation: ids of those to validate with, of other files.
    """

    tokenizer: str
    train: np.ndarray
    validation: np.ndarray

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return list(Tokenizer.from_str(self.tokenizer).encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; ids that the tokenizer does not have are left out."""
        return str(Tokenizer.from_str(self.tokenizer).decode(list(ids)))


def load_corpus(folder: Path, vocabulary: int, cache: Path) -> Corpus:
    """The text of a folder's .py files; rank 0 prepares it, and all ranks get the same.

    Args:
        folder: where the text is; what is in `site-packages` is left out.
        vocabulary: number of tokens at most.
        cache: a folder where tokens are kept for the next run.
    """
    corpus = _cached(folder, vocabulary, cache) if hvd.rank() == 0 else None
    return hvd.broadcast_object(corpus, 0)


def windows(tokens: np.ndarray, context: int, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens in rows, and for each the token that comes next; both [rows, context].

    Args:
        tokens: the text.
        context: length of a row.
        multiple: what the number of rows divides by; the rest of the text is left out.

    Raises:
        ValueError: the text is too short.
    """
    there = max(0, len(tokens) - 1) // context
    count = there // multiple * multiple
    if count == 0:
        raise ValueError(
            f"the text has {there} rows of {context} tokens, and {multiple} are needed: take more "
            "text, smaller batches, or fewer steps in an epoch."
        )
    length = count * context
    return tokens[:length].reshape(-1, context), tokens[1 : length + 1].reshape(-1, context)


def _cached(folder: Path, vocabulary: int, cache: Path) -> Corpus:
    files = _python_files(folder)
    sizes = [f"{file.relative_to(folder)} {file.stat().st_size}" for file in files]
    key = hashlib.sha256("\n".join([str(vocabulary), *sizes]).encode()).hexdigest()[:16]
    kept = cache / f"{key}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Corpus(str(arrays["tokenizer"]), arrays["train"], arrays["validation"])
    corpus = _made(files, vocabulary)
    cache.mkdir(parents=True, exist_ok=True)
    written = cache / f"{key}.{os.getpid()}.npz"
    np.savez(written, tokenizer=corpus.tokenizer, train=corpus.train, validation=corpus.validation)
    written.replace(kept)
    return corpus


def _python_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.py"))
    return [file for file in files if "site-packages" not in file.relative_to(folder).parts]


def _made(files: Sequence[Path], vocabulary: int) -> Corpus:
    validation, train = files[::_VALIDATION_FILES], list(files)
    del train[::_VALIDATION_FILES]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(train), trainer)
    return Corpus(tokenizer.to_str(), _ids(tokenizer, train), _ids(tokenizer, validation))


def _texts(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        yield file.read_text(encoding="utf-8", errors="replace") + END_OF_TEXT


def _ids(tokenizer: Tokenizer, files: Sequence[Path]) -> np.ndarray:
    found = []
    for first in range(0, len(files), _FILES_AT_ONCE):
        texts = list(_texts(files[first : first + _FILES_AT_ONCE]))
        found += [np.array(e.ids, "int32") for e in tokenizer.encode_batch_fast(texts)]
    return np.concatenate(found) if found else np.zeros(0, "int32")
