"""Entities over all rows of all ranks, each row once."""

from __future__ import annotations

import random

import bert
import keras
import ner_data
import ner_model
import ner_scores
import numpy as np

import hvdkit as hvd

from . import files

LABELS = ["O", "B-person", "I-person", "B-place", "I-place"]
WORDS = ["ana", "anax", "bob", "rome", "in", "oslo", "a/b", ",", "eats", "lives"]


def sentences(count: int, seed: int = 0) -> list[ner_data.Sentence]:
    """Random words with random labels."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        length = rng.randint(1, 6)
        labels = tuple(rng.choice(LABELS) for _ in range(length))
        found.append(ner_data.Sentence(tuple(rng.choices(WORDS, k=length)), labels))
    return found


def tagger() -> keras.Model:
    """With the same random weights on every rank."""
    config = bert.BertConfig(**{n: v for n, v in files.CONFIG.items() if n not in bert.EXPECTED})
    made = ner_model.build_tagger(config, len(LABELS))
    rng = np.random.default_rng(0)
    made.set_weights([rng.normal(0, 0.5, w.shape) for w in made.get_weights()])
    return made


def held(of: list[ner_data.Sentence], batch_size: int) -> ner_scores.Held:
    rows = ner_data.by_length(ner_data.rows_of(of, files.plain_tokenizer(), 6), seed=1)
    return ner_scores.Held(of, rows, LABELS, batch_size, batch_size // hvd.size())


def _entities(labels: list[str] | tuple[str, ...]) -> set[tuple[int, int, str]]:
    """First word, last word, type; written anew."""
    found, begin = set(), None
    for place, label in enumerate([*labels, "O"]):
        goes_on = begin is not None and label == f"I-{labels[begin][2:]}"
        if begin is not None and not goes_on:
            found.add((begin, place - 1, labels[begin][2:]))
            begin = None
        if label != "O" and not goes_on:
            begin = place
    return found


def _f1(true: list, predicted: list, kind: str | None = None) -> tuple[float, float, float]:
    """Precision, recall and F1 in percent, of one process, counted anew."""
    pairs = [(_entities(a), _entities(b)) for a, b in zip(true, predicted, strict=True)]
    pairs = [tuple({e for e in each if kind in (None, e[2])} for each in pair) for pair in pairs]
    right = sum(len(a & b) for a, b in pairs)
    precision = right / (sum(len(b) for _, b in pairs) or 1)
    recall = right / (sum(len(a) for a, _ in pairs) or 1)
    both = precision + recall
    return 100 * precision, 100 * recall, 100 * (2 * precision * recall / both if both else 0.0)


def _likeliest(model: keras.Model, ids: tuple[int, ...]) -> np.ndarray:
    inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones([1, len(ids)], "int32")}
    return np.argmax(model(inputs)[0], axis=-1)


def check_scores_over_ranks_are_those_of_one_process() -> None:
    of, model, tokenizer = sentences(23), tagger(), files.plain_tokenizer()
    alone = []
    for each in of:  # a row at a time, with no row beside it that could fill it up
        rows = ner_data.rows_of([each], tokenizer, 6)
        numbers = [_likeliest(model, row.ids) for row in rows]
        [labels] = ner_data.joined(rows, numbers, [len(each.words)], LABELS)
        alone.append(labels)
    true = [list(each.labels) for each in of]
    for batch_size in (2 * hvd.size(), 5 * hvd.size()):  # the last batch is short
        data = held(of, batch_size)
        assert data.predicted(model) == alone
        found = data.scores(model)
        for kind in ("person", "place"):
            own = found[kind]
            np.testing.assert_allclose(
                (own["precision"], own["recall"], own["f1"]), _f1(true, alone, kind)
            )
        own = found[ner_scores.ALL]
        np.testing.assert_allclose((own["precision"], own["recall"], own["f1"]), _f1(true, alone))
        assert own["f1"] > 0, "nothing is compared"
        assert own["entities"] == sum(len(_entities(each)) for each in true)


def check_each_rank_predicts_its_share_and_all_get_all() -> None:
    of, model = sentences(3 * hvd.size() + 1), tagger()
    bias = np.zeros(len(LABELS))
    bias[1 + hvd.rank() % 4] = 1e6  # a rank that gives its number away
    model.get_layer("classifier").bias.assign(bias)
    data = held(of, hvd.size())
    predicted = data.predicted(model)
    assert hvd.allgather_object(predicted) == [predicted] * hvd.size()
    for number, row in enumerate(data.rows):
        for word in row.words:
            expected = LABELS[1 + number % hvd.size() % 4]
            assert predicted[row.sentence][word] == expected
