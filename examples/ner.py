"""Fine-tune a BERT to find named entities, on one rank or several.

    python examples/ner.py --weights FOLDER --train a.conll --dev b.conll --test c.conll
    mpirun -np 2 python examples/ner.py --weights FOLDER --train a.conll --dev b.conll --lora 8

FOLDER has model.safetensors, config.json and tokenizer.json, as Hugging Face gives them. The global
batch is the same on any number of ranks. docs/from_weights_to_service.md describes options and
results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import bert
import keras
import ner_data
import ner_model
import ner_scores
from rich.console import Console
from tokenizers import Tokenizer

import hvdkit as hvd

Made = TypeVar("Made")
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", required=True, help="a folder, or a name on Hugging Face's hub"
    )
    parser.add_argument("--train", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dev", type=Path, required=True, metavar="FILE", help="to stop by")
    parser.add_argument("--test", type=Path, metavar="FILE")
    parser.add_argument("--length", type=int, help="pieces of a row; default: all positions")

    training = parser.add_argument_group("training")
    training.add_argument("--batch-size", type=int, default=32, help="rows over all ranks")
    training.add_argument("--epochs", type=int, default=6)
    training.add_argument("--learning-rate", type=float, default=3e-4, help="after the warm-up")
    training.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    training.add_argument("--weight-decay", type=float, default=0.01)
    training.add_argument("--clip-norm", type=float, default=1.0, help="of all gradients together")
    training.add_argument("--patience", type=int, default=3, help="epochs without a better F1")
    training.add_argument("--seed", type=int, default=1)
    training.add_argument(
        "--precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), default="float32"
    )
    training.add_argument("--lora", type=int, metavar="RANK", help="adapters in place of weights")
    training.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="save, and go on from here"
    )

    mesh = parser.add_argument_group("dividing the model")
    mesh.add_argument("--parallelize", action="store_true", help="by hvd.parallelize")
    mesh.add_argument("--tensor", type=int, default=1, help="ranks that divide a layer")

    results = parser.add_argument_group("results")
    results.add_argument("--save", type=Path, metavar="DIR", help="model, labels and tokenizer")
    results.add_argument("--history", type=Path, metavar="FILE", help="curves and scores (JSON)")
    results.add_argument("--curve", type=Path, metavar="FILE", help="draw the curves (.png)")
    return parser.parse_args(given)


def on_every_rank(make: Callable[[], Made]) -> Made:
    """What `make` gives, or the end of every rank, with what is wrong on any of them."""
    made, problem = None, None
    try:
        made = make()
    except (ValueError, OSError, ImportError) as error:
        problem = str(error)
    problems = hvd.allgather_object(problem)
    for problem in dict.fromkeys(each for each in problems if each):
        where = [rank for rank, each in enumerate(problems) if each == problem]
        ranks = "" if len(where) == hvd.size() else f" (rank {', '.join(map(str, where))})"
        if hvd.rank() == 0:
            print(f"error{ranks}: {problem}", file=sys.stderr, flush=True)
    if any(problems):
        hvd.barrier()  # rank 0 has to have said why before any rank ends
        sys.exit(1)
    return made  # type: ignore[return-value]


def files_of(weights: str) -> Path:
    """The folder with the weights: a path as it is, a hub's name downloaded.

    Raises:
        ImportError, OSError, ValueError: it can't be had.
    """
    folder = Path(weights)
    if folder.is_dir():
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise ValueError(f"{folder} lacks {', '.join(missing)}.")
        return folder
    if folder.is_absolute() or weights.count("/") != 1:
        raise ValueError(f"{weights} is neither a folder nor a name on the hub, such as a/b.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError("reading from the hub needs: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(weights, allow_patterns=list(FILES)))
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


def require_same_labels(folder: Path, labels: Sequence[str]) -> None:
    """Note the labels beside the checkpoints; those of a training that goes on have to be the same.

    Raises:
        ValueError: they are not.
    """
    file = folder / "labels.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != list(labels):
            lost, new = set(before) - set(labels), set(labels) - set(before)
            raise ValueError(
                f"the training in {folder} had other labels: without {sorted(lost) or 'none'} of "
                f"them now, and with {sorted(new) or 'none'} besides. Train on files with the "
                "labels of before, or name an empty folder."
            )
    elif hvd.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(list(labels)) + "\n", encoding="utf-8")


def build(args: argparse.Namespace, task: Task) -> keras.Model:
    """The model with its weights, adapted and divided as asked for.

    Raises:
        ValueError, OSError, ImportError: the weights can't be read.
    """
    tagger = ner_model.build_tagger(task.config, len(task.labels))
    bert.load_weights(tagger, task.encoder_file)
    if args.lora:
        ner_model.adapt(tagger, args.lora)
    return tagger


def train(
    model: keras.Model, args: argparse.Namespace, task: Task, dev: ner_scores.Held, own: int
) -> dict[str, Any]:
    """Train the model; returns the curves."""
    rows = task.rows["train"]
    data = ner_data.batches(rows, task.sentences["train"], task.labels, args.batch_size)
    steps = math.ceil(len(rows) / args.batch_size) * args.epochs
    model.compile(
        ner_model.optimizer_of(
            args.learning_rate, steps, args.warmup, args.weight_decay, args.clip_norm
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        ner_scores.EntityF1(dev),
        hvd.callbacks.EarlyStopping(
            "val_f1", mode="max", patience=args.patience, restore_best_weights=True
        ),
    ]
    if args.checkpoint:
        callbacks.append(hvd.callbacks.BackupAndRestore(args.checkpoint))
    history = model.fit(
        hvd.shard(data, own, shuffle=True, seed=args.seed),
        epochs=args.epochs,
        callbacks=callbacks,
        verbose=2 if hvd.rank() == 0 else 0,
    )
    return history.history


def main() -> None:
    args, console = parse_arguments(), Console(width=100)
    hvd.init()
    if hvd.rank() != 0:
        console.quiet = True
    hvd.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    task = on_every_rank(lambda: read(args))
    for note in task.notes:
        console.print(note, highlight=False)
    model = on_every_rank(lambda: build(args, task))
    if args.checkpoint:
        on_every_rank(lambda: require_same_labels(args.checkpoint, task.labels))
    if args.parallelize:
        hvd.set_mesh(hvd.Mesh(tensor=args.tensor))
        model = hvd.parallelize(model)
    own = args.batch_size * args.tensor // hvd.size()
    held = {
        name: ner_scores.Held(
            task.sentences[name], task.rows[name], task.labels, args.batch_size, own
        )
        for name in task.rows
        if name != "train"
    }
    history = train(model, args, task, held["dev"], own)
    found = {name: each.scores(model) for name, each in held.items()}
    for name, each in found.items():
        console.print(ner_scores.table(each, str(getattr(args, name))))
    if args.save:
        ner_model.save(model, task.config, task.labels, task.tokenizer, args.save)
    run = {"title": f"{hvd.size()} ranks", "history": history, "scores": found}
    if args.history and hvd.rank() == 0:
        args.history.write_text(json.dumps(run) + "\n")
    if args.curve and hvd.rank() == 0:
        from ner_curves import draw

        draw([run], args.curve)


if __name__ == "__main__":
    main()
