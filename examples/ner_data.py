"""Words with labels from CoNLL files, as rows of word pieces, and in batches for `hvd.shard`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import tensorflow as tf
from tokenizers import Tokenizer

OUTSIDE = "O"
_IGNORED, _PADDING = -1, -2  # in the place of a label: a word's later pieces; what fills rows up
_SPARE_ROWS = 128  # embeddings are made so much larger than their vocabulary at most


@dataclass(frozen=True)
class Sentence:
    """Words, and for each its label in IOB2: "O", "B-person", "I-person"..."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A sentence, or a window of one that is too long, as the encoder reads it.

    Attributes:
        ids: of its pieces, with [CLS] before and [SEP] after them.
        sentence: the number of the sentence.
        words: which of its words the row has.
        firsts: where in `ids` the first piece of each of them is.
    """

    ids: tuple[int, ...]
    sentence: int
    words: tuple[int, ...]
    firsts: tuple[int, ...]


def read_conll(path: Path) -> list[Sentence]:
    """The sentences of a CoNLL file: a word and its label a line, an empty line after a sentence.

    The word is in the first column and the label in the last; tabs separate them if there are any,
    else spaces. Lines that begin with -DOCSTART- are left out.

    Raises:
        OSError: the file can't be read.
        ValueError: a line has another number of columns than the first, or a label is not of IOB2,
            with the number of the line; or there are no sentences.
    """
    sentences = []
    for is_word, lines in groupby(_lines(path), key=lambda line: bool(line)):
        if is_word:
            words, labels = zip(*lines, strict=True)
            sentences.append(Sentence(words, labels))
    if not sentences:
        raise ValueError(f"{path} has no sentences.")
    return sentences


def _lines(path: Path) -> Iterator[tuple[str, str] | None]:
    """Word and label of each line; None between sentences."""
    columns = 0
    # Words may hold what `splitlines` takes for ends of lines.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield None
            continue
        found = line.split("\t") if "\t" in line else line.split()
        columns = columns or len(found)
        where = f"{path}, line {number}"
        if len(found) != columns or columns < 2:
            expected = f"{columns}, as in the lines before" if columns > 1 else "2 or more"
            raise ValueError(f"{where} has {len(found)} columns and not {expected}: {line!r}.")
        word, label = found[0], found[-1].strip()
        if label != OUTSIDE and (label[:2] not in ("B-", "I-") or not label[2:]):
            raise ValueError(f"{where}: {label!r} is no label of IOB2: O, B-person, I-person...")
        yield word, label


def labels_of(sentences: Iterable[Sentence]) -> list[str]:
    """The labels that occur, "O" first: the classes of a model."""
    found = {label for sentence in sentences for label in sentence.labels} - {OUTSIDE}
    return [OUTSIDE, *sorted(found, key=lambda label: (label[2:], label))]


def load_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read a `tokenizer.json`; it pads nothing, and cuts nothing off.

    Args:
        path: the file.
        vocabulary: rows of the encoder's embedding of tokens.

    Raises:
        ValueError: the file is no tokenizer, or its tokens are not those of the embedding.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{path} is no tokenizer: {error}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokens = max(tokenizer.get_vocab().values()) + 1
    if not vocabulary - _SPARE_ROWS < tokens <= vocabulary:
        raise ValueError(
            f"{path} has {tokens} tokens, and the encoder embeds {vocabulary}: it is the tokenizer "
            "of another model."
        )
    if missing := [each for each in ("[CLS]", "[SEP]") if tokenizer.token_to_id(each) is None]:
        raise ValueError(f"{path} has no {' and no '.join(missing)}: it is no tokenizer of a BERT.")
    return tokenizer


def rows_of(sentences: Sequence[Sentence], tokenizer: Tokenizer, longest: int) -> list[Row]:
    """Rows of at most `longest` pieces: sentences, or windows of whole words of them.

    A word of which no piece is left (of control characters, say) is in no row. One that is longer
    than a row is cut.
    """
    begin, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    rows = []
    encodings = tokenizer.encode_batch(
        [list(each.words) for each in sentences], is_pretokenized=True, add_special_tokens=False
    )
    for number, encoding in enumerate(encodings):
        pieces: dict[int, list[int]] = {}
        for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
            pieces.setdefault(word, []).append(piece)
        for words in _windows(pieces, longest - 2):
            cut = [pieces[word][: longest - 2] for word in words]
            firsts = np.cumsum([1, *map(len, cut)])[:-1]
            ids = (begin, *(piece for each in cut for piece in each), end)
            rows.append(Row(ids, number, tuple(words), tuple(map(int, firsts))))
    return rows


def _windows(pieces: dict[int, list[int]], room: int) -> Iterator[list[int]]:
    words: list[int] = []
    used = 0
    for word, its in pieces.items():
        if words and used + len(its) > room:
            yield words
            words, used = [], 0
        words.append(word)
        used += len(its)
    if words:
        yield words


def by_length(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows in the order of their lengths, so that those of a batch have about the same."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return sorted((rows[index] for index in order), key=lambda row: len(row.ids))


def batches(
    rows: Sequence[Row], sentences: Sequence[Sentence], labels: Sequence[str], size: int
) -> tf.data.Dataset:
    """Global batches of `size` rows, each as wide as its longest row, in the given order.

    An element is ({"input_ids", "attention_mask"}, labels, weights), each [rows, pieces]. A word's
    first piece has its label, unless that is none of `labels`. Its weight is such that Keras's
    mean over a batch is the sum over words, divided by rows and by the words of a usual row: rows
    count alike however they are put into batches, and dealt out to ranks.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    targets = []
    for row in rows:
        target = np.full(len(row.ids), _IGNORED, "int32")
        words = (sentences[row.sentence].labels[word] for word in row.words)
        target[list(row.firsts)] = [numbers.get(label, _IGNORED) for label in words]
        targets.append(target)
    usual = sum(len(row.words) for row in rows) / len(rows)

    def batch(ids: tf.Tensor, target: tf.Tensor) -> tuple[dict[str, tf.Tensor], ...]:
        width = tf.cast(tf.shape(ids)[1], tf.float32)
        mask = tf.cast(target != _PADDING, tf.int32)
        weights = tf.cast(target >= 0, tf.float32) * width / usual
        return {"input_ids": ids, "attention_mask": mask}, tf.maximum(target, 0), weights

    lengths = [len(row.ids) for row in rows]
    ragged = tuple(
        tf.RaggedTensor.from_row_lengths(np.concatenate(each).astype("int32"), lengths)
        for each in ([row.ids for row in rows], targets)
    )
    samples = tf.data.Dataset.from_tensor_slices(ragged).map(lambda *row: row)
    return samples.padded_batch(size, padding_values=(0, _PADDING)).map(batch)


def joined(
    rows: Sequence[Row], predicted: Iterable[Sequence[int]], words: Sequence[int], names: list[str]
) -> list[list[str]]:
    """The label of each word of each sentence.

    Args:
        rows: all rows of the sentences, each once.
        predicted: for each row the number of the likeliest label of each piece.
        words: how many words each sentence has; those that are in no row are "O".
        names: of the labels.

    Raises:
        ValueError: a word is in two rows, or there is not one prediction for each row.
    """
    found: list[list[str | None]] = [[None] * count for count in words]
    for row, numbers in zip(rows, predicted, strict=True):
        for word, first in zip(row.words, row.firsts, strict=True):
            if found[row.sentence][word] is not None:
                raise ValueError(f"word {word} of sentence {row.sentence} is in two rows.")
            found[row.sentence][word] = names[int(numbers[first])]
    return [[label or OUTSIDE for label in sentence] for sentence in found]
