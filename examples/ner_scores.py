"""Precision, recall and F1 of entities, over all rows of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import ner_data
import numpy as np
import tensorflow as tf
from nervaluate import Evaluator
from rich.table import Table

import hvdkit as hvd

ALL = "all types"


def scores(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each type of entity and of all, in percent, and their number.

    An entity counts as found if all its words and no others have its type, as in CoNLL's shared
    tasks. The package nervaluate compares ("strict").

    Args:
        true: for each sentence the labels of its words, in IOB2.
        predicted: the same, of a model; an "I-" that follows no word of its type begins an entity.
    """
    types = {label[2:] for labels in (*true, *predicted) for label in labels} - {""}
    if not types:
        return {ALL: {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 0}}
    found = Evaluator(
        [list(labels) for labels in true],
        [list(labels) for labels in predicted],
        tags=sorted(types),
        loader="list",
    ).evaluate()
    strict = {name: found["entities"][name]["strict"] for name in sorted(types)}
    strict[ALL] = found["overall"]["strict"]
    return {
        name: {
            "precision": 100 * result.precision,
            "recall": 100 * result.recall,
            "f1": 100 * result.f1,
            "entities": result.possible,
        }
        for name, result in strict.items()
    }


def table(found: dict[str, dict[str, float]]) -> Table:
    """Scores as a table, for `rich`."""
    columns = ("precision", "recall", "f1", "entities")
    made = Table("type")
    for column in columns:
        made.add_column(column, justify="right")
    for name, each in found.items():
        cells = (
            f"{each[column]:.0f}" if column == "entities" else f"{each[column]:.2f}"
            for column in columns
        )
        made.add_row(name, *cells)
    return made


class Held:
    """Sentences to be scored on: each rank predicts its share of the rows, and gets all.

    Args:
        sentences: what all ranks have read.
        rows: of them, in the order in which they are read.
        labels: the classes of the model.
        batch_size: rows of all replicas in a step.
        own: of them, those of one.
    """

    def __init__(
        self,
        sentences: Sequence[ner_data.Sentence],
        rows: Sequence[ner_data.Row],
        labels: Sequence[str],
        batch_size: int,
        own: int,
    ) -> None:
        self.sentences, self.rows, self.labels = sentences, rows, labels
        self.data = hvd.shard(ner_data.batches(rows, sentences, labels, batch_size), own)

    def predicted(self, model: keras.Model) -> list[list[str]]:
        """The label of each word of each sentence, the same on every rank; every rank calls it."""
        logits = model.predict(self.data, verbose=0)
        if isinstance(logits, tf.RaggedTensor):  # of batches of different widths
            logits = logits.to_tensor()
        numbers = np.argmax(logits, axis=-1)
        return ner_data.joined(
            self.rows, numbers, [len(each.words) for each in self.sentences], self.labels
        )

    def scores(self, model: keras.Model) -> dict[str, dict[str, float]]:
        """Of the model, over all sentences, each once; every rank calls it."""
        return scores([each.labels for each in self.sentences], self.predicted(model))


class EntityF1(keras.callbacks.Callback):
    """Adds precision, recall and F1 over all types to the results of an epoch.

    It comes before callbacks that look at "val_f1".
    """

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it: nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take what `get_state` gave."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self.held = held

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras calls it."""
        found = self.held.scores(self.model)[ALL]
        if logs is not None:
            logs.update({f"val_{name}": found[name] for name in ("precision", "recall", "f1")})
