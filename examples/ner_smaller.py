"""Make a model that examples/ner.py has saved smaller, in several ways, and say what each costs.

    python examples/ner_smaller.py --model DIR --train a.conll --test c.conll
    mpirun -np 2 python examples/ner_smaller.py --model DIR --train a.conll --test c.conll --save s

Prints size, entity F1 and the time of a sentence on one core for the model itself, for a student of
half of its layers (distilled), for half of its neurons (pruned and left out), for both, and with 8
bits for a weight; by Keras and by LiteRT. `--save` writes the model of both, in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import ner_data
import ner_scores
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import hvdkit as hvd
from hvdkit.compress import Cubic, Distiller, Neurons, Pruning, quantize, shrink, student_of

TIMED, PIECES = 50, 32  # runs, and the length of the sentence, as near as there is one
Logits = Callable[[dict[str, np.ndarray]], np.ndarray]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="of ner.py --save")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="to score on")
    parser.add_argument("--batch-size", type=int, default=32, help="rows over all ranks")
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the model of both")
    return parser.parse_args()


class Trial:
    """The data, the model, and the ways to make it smaller.

    Args:
        args: of the command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        if args.batch_size % hvd.size():
            raise SystemExit(
                f"--batch-size {args.batch_size} does not divide by {hvd.size()} ranks"
            )
        self.args, self.own = args, args.batch_size // hvd.size()
        self.labels = json.loads((args.model / "labels.json").read_text(encoding="utf-8"))
        self.model = keras.saving.load_model(args.model / "model.keras")
        vocabulary = self.model.get_layer("embeddings.word_embeddings").input_dim
        longest = self.model.get_layer("embeddings.position_embeddings").input_dim
        tokenizer = ner_data.load_tokenizer(args.model / "tokenizer.json", vocabulary)

        def rows(path: Path) -> tuple[list[ner_data.Sentence], list[ner_data.Row]]:
            sentences = ner_data.read_conll(path)
            found = ner_data.rows_of(sentences, tokenizer, longest)
            return sentences, ner_data.by_length(found, args.seed)

        sentences, found = rows(args.train)
        self.steps = -(-len(found) // args.batch_size) * args.epochs
        data = ner_data.batches(found, sentences, self.labels, args.batch_size)
        self.data = hvd.shard(data, self.own, shuffle=True, seed=args.seed)
        self.held = ner_scores.Held(*rows(args.test), self.labels, args.batch_size, self.own)

    def student(self) -> keras.Model:
        """Every second layer, which learns from all of them."""
        student = student_of(self.model)
        self.train(self.taught(student))
        return student

    def taught(self, student: keras.Model) -> Distiller:
        """What trains a student of the model."""
        return Distiller(self.model, student, temperature=2.0, hard_weight=0.5)

    def narrow(self, model: keras.Model, learner: keras.Model) -> keras.Model:
        """Half of the neurons between the two `Dense` of each layer, while `learner` is trained."""
        schedule = Cubic(0.5, end=max(1, self.steps // 2), every=max(1, self.steps // 20))
        self.train(learner, Pruning(schedule, Neurons()))
        return shrink(model)

    def train(self, model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
        """Train a model on all ranks."""
        optimizer = keras.optimizers.AdamW(self.args.learning_rate, global_clipnorm=1.0)
        model.compile(
            hvd.DistributedOptimizer(optimizer),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        model.fit(self.data, epochs=self.args.epochs, callbacks=[start, *callbacks], verbose=0)


def int8(model: keras.Model) -> keras.Model:
    """A copy with 8 bits for a weight."""
    small = copy_of(model)
    quantize(small, "int8")
    return small


def copy_of(model: keras.Model) -> keras.Model:
    """A model of the same weights, not compiled."""
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


class Report:
    """A table of models; rank 0 measures while the others wait.

    Args:
        trial: whose rows they are scored on.
    """

    def __init__(self, trial: Trial) -> None:
        self.held = trial.held
        self.table = Table("model", "run by")
        for column in ("M weights", "MB", "F1", "ms a sentence"):
            self.table.add_column(column, justify="right")

    def add_keras(self, name: str, model: keras.Model) -> None:
        """Add a model as its `.keras` file gives it; every rank calls it."""
        f1 = self.held.scores(model)[ner_scores.ALL]["f1"]
        if hvd.rank() == 0:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.keras"
                model.save(file)
                megabytes = file.stat().st_size / 1e6
                loaded = keras.saving.load_model(file)
            run = tf.function(lambda inputs: loaded(inputs, training=False), jit_compile=False)
            self._add(name, "Keras", model, megabytes, f1, lambda inputs: run(inputs).numpy())
        hvd.barrier()  # nothing else is computed while rank 0 takes the time

    def add_litert(self, name: str, model: keras.Model, mode: Any = None) -> None:
        """Add a model as LiteRT runs it; every rank calls it."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.tflite"
            hvd.export_model(model, file, to="litert", quantize=mode)
            if hvd.rank() == 0:
                runtime = hvd.export.load(file)
                (output,) = (each.name for each in runtime.outputs)
                megabytes = file.stat().st_size / 1e6

                def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
                    return runtime(inputs)[output]

                self._add(name, "LiteRT", model, megabytes, self._f1(run), run)
        hvd.barrier()

    def _f1(self, run: Logits) -> float:
        numbers = []
        for row in self.held.rows:
            numbers.append(np.argmax(run(_inputs(row))[0], axis=-1))
        sentences = self.held.sentences
        found = ner_data.joined(
            self.held.rows, numbers, [len(each.words) for each in sentences], self.held.labels
        )
        return ner_scores.scores([each.labels for each in sentences], found)[ner_scores.ALL]["f1"]

    def _add(
        self, name: str, by: str, model: keras.Model, megabytes: float, f1: float, run: Logits
    ) -> None:
        row = min(self.held.rows, key=lambda each: abs(len(each.ids) - PIECES))
        inputs = _inputs(row)
        seconds = []
        for _ in range(TIMED):
            begin = time.perf_counter()
            run(inputs)
            seconds.append(time.perf_counter() - begin)
        milliseconds = 1e3 * statistics.median(seconds[5:])
        parts = (model.count_params() / 1e6, megabytes, f1, milliseconds)
        self.table.add_row(name, by, *(f"{value:.1f}" for value in parts))


def _inputs(row: ner_data.Row) -> dict[str, np.ndarray]:
    ids = np.array([row.ids], "int32")
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def main() -> None:
    args = parse_arguments()
    for limit in (
        tf.config.threading.set_intra_op_parallelism_threads,
        tf.config.threading.set_inter_op_parallelism_threads,
    ):
        limit(1)
    hvd.init()
    hvd.set_random_seed(args.seed)
    trial = Trial(args)
    report = Report(trial)

    def in_four_forms(name: str, model: keras.Model) -> None:
        report.add_keras(name, model)
        report.add_litert(name, model)
        report.add_keras(f"{name}, int8", int8(model))
        report.add_litert(f"{name}, int8", model, "int8")

    in_four_forms("as it is", trial.model)
    student = trial.student()
    report.add_keras("half of the layers", student)
    copy = copy_of(trial.model)
    report.add_keras("half of the neurons", trial.narrow(copy, learner=copy))
    small = trial.narrow(student, learner=trial.taught(student))
    in_four_forms("half of both", small)
    if hvd.rank() == 0:
        Console(width=100).print(report.table)
        if args.save:
            args.save.mkdir(parents=True, exist_ok=True)
            small.save(args.save / "model.keras")
            for each in ("labels.json", "tokenizer.json"):
                shutil.copy(args.model / each, args.save / each)


if __name__ == "__main__":
    main()
