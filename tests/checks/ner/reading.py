"""CoNLL files, and words in pieces."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import ner_data
import numpy as np
import pytest

from . import files


def _sentences(text: str = files.SENTENCES) -> list[ner_data.Sentence]:
    with TemporaryDirectory() as name:
        file = Path(name) / "sentences.conll"
        file.write_bytes(text.encode())
        return ner_data.read_conll(file)


def _tokenizer() -> ner_data.Tokenizer:
    with TemporaryDirectory() as name:
        folder = files.write(Path(name))
        return ner_data.load_tokenizer(folder / "tokenizer.json", files.CONFIG["vocab_size"])


def check_sentences_of_files() -> None:
    three = _sentences()
    assert [len(each.words) for each in three] == [5, 3, 7]
    assert three[1].words == ("Bob", "Ana", "eats")
    assert three[1].labels == ("B-person", "I-person", "O")
    assert ner_data.labels_of(three) == ["O", "B-person", "I-person", "B-place", "I-place"]
    # More columns, spaces, ends of lines of Windows, lines of blanks only, and what only looks
    # like the end of a line.
    other = _sentences("-DOCSTART- -X- O\r\n\r\na NN O\r\n \r\n\r\nc NN B-x\r\n")
    assert [each.words for each in other] == [("a",), ("c",)]
    tabs = _sentences("a\u2028b\tO\n\t\nc d\tB-x")
    assert [each.words for each in tabs] == [("a\u2028b",), ("c d",)]
    assert tabs[1].labels == ("B-x",)


def check_the_first_piece_of_a_word_has_its_label() -> None:
    sentences, tokenizer = _sentences(), _tokenizer()
    rows = ner_data.rows_of(sentences, tokenizer, 16)
    pieces = [tokenizer.id_to_token(piece) for piece in rows[2].ids]
    assert pieces == [
        "[CLS]",
        "ana",
        "##x",
        "in",
        "oslo",
        "rome",
        ",",
        "or",
        "a",
        "/",
        "b",
        "[SEP]",
    ]
    assert (rows[2].words, rows[2].firsts) == ((0, 1, 2, 3, 4, 5, 6), (1, 3, 4, 5, 6, 7, 8))
    labels = ner_data.labels_of(sentences)
    [(inputs, targets, weights)] = ner_data.batches(rows, sentences, labels, 3)
    assert inputs["input_ids"].shape == (3, 12)
    np.testing.assert_array_equal(np.sum(inputs["attention_mask"], axis=1), [7, 5, 12])
    np.testing.assert_array_equal(targets[2], [0, 1, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(np.asarray(weights[2]) > 0, [0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    # A mean over the batch is the sum over words by rows and by the words of a usual row: 5.
    np.testing.assert_allclose(np.mean(weights), (5 + 3 + 7) / 3 / 5)
    # A label that the model does not have counts for nothing.
    [(_, _, fewer)] = ner_data.batches(rows, sentences, labels[:3], 3)
    assert float(fewer[2][4]) == float(fewer[2][5]) == 0 < float(fewer[2][3])


def check_long_sentences_become_windows_of_whole_words() -> None:
    sentences, tokenizer = _sentences(), _tokenizer()
    rows = ner_data.rows_of(sentences, tokenizer, 5)
    of_last = [row for row in rows if row.sentence == 2]
    assert [row.words for row in of_last] == [(0, 1), (2, 3, 4), (5,), (6,)]
    assert all(len(row.ids) <= 5 for row in rows)
    # One word that is longer than a row is cut; one without pieces is in no row.
    odd = [ner_data.Sentence(("anaxxxxx", "\u200d", "in"), ("O", "O", "O"))]
    assert [row.words for row in ner_data.rows_of(odd, tokenizer, 5)] == [(0,), (2,)]
    # Of all rows, in any order, each word gets its label back.
    labels = ner_data.labels_of(sentences)
    ordered = ner_data.by_length(rows, seed=3)
    predicted = [
        [
            labels.index(sentences[row.sentence].labels[row.words[row.firsts.index(place)]])
            if place in row.firsts
            else 1
            for place in range(len(row.ids))
        ]
        for row in ordered
    ]
    words = [len(each.words) for each in sentences]
    assert ner_data.joined(ordered, predicted, words, labels) == [
        list(each.labels) for each in sentences
    ]
    with pytest.raises(ValueError, match="is in two rows"):
        ner_data.joined([*ordered, ordered[0]], [*predicted, predicted[0]], words, labels)
