"""Fine-tune a BERT to find named entities, on one rank or several.

    python examples/ner.py --weights FOLDER --train a.conll --dev b.conll --test c.conll
    mpirun -np 2 python examples/ner.py --weights FOLDER --train a.conll --dev b.conll --lora 8

FOLDER has model.safetensors, config.json and tokenizer.json, as Hugging Face gives them. The global
batch is the same on any number of ranks. Such sentences are those of WNUT-17 (Derczynski et al.
2017, CC BY 4.0), from github.com/leondz/emerging_entities_17. docs/from_weights_to_service.md
describes options and results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import bert
import keras
import ner_data
import ner_inputs
import ner_model
import ner_scores
from rich.console import Console

import hvdkit as hvd

Made = TypeVar("Made")


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
    training.add_argument("--epochs", type=int, default=3)
    training.add_argument(
        "--learning-rate", type=float, help="after the warm-up; default: 1e-4, or 1e-3 with --lora"
    )
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

    training.add_argument(
        "--parallelize",
        type=int,
        nargs="?",
        const=0,
        metavar="RANKS",
        help="divide each layer over so many ranks, or all, by hvd.parallelize",
    )

    results = parser.add_argument_group("results")
    results.add_argument("--save", type=Path, metavar="DIR", help="model, labels and tokenizer")
    results.add_argument("--history", type=Path, metavar="FILE", help="curves and scores (JSON)")
    results.add_argument("--curve", type=Path, metavar="FILE", help="draw the curves (.png)")
    args = parser.parse_args(given)
    if args.learning_rate is None:
        args.learning_rate = 1e-3 if args.lora else 1e-4
    return args


def on_every_rank(make: Callable[[], Made]) -> Made:
    """What `make` gives; or the end of every rank, with what is wrong on the first where it is."""
    made, problem = None, None
    try:
        made = make()
    except (ValueError, OSError, ImportError) as error:
        problem = str(error)
    problems = hvd.allgather_object(problem)
    where = [rank for rank, each in enumerate(problems) if each]
    if where:
        if hvd.rank() == 0:
            ranks = "" if len(where) == hvd.size() else f" (rank {', '.join(map(str, where))})"
            print(f"error{ranks}: {problems[where[0]]}", file=sys.stderr, flush=True)
        hvd.barrier()  # rank 0 has to have said why before any rank ends
        sys.exit(1)
    return made  # type: ignore[return-value]


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


def divided(args: argparse.Namespace) -> int:
    """How many ranks hold a model together."""
    return 1 if args.parallelize is None else args.parallelize or hvd.size()


def own_rows(args: argparse.Namespace) -> int:
    """The rows of a batch that a rank has, or ranks that hold a model together.

    Raises:
        ValueError: the ranks, or the rows, do not divide.
    """
    replicas, rest = divmod(hvd.size(), divided(args))
    if rest:
        raise ValueError(f"--parallelize {args.parallelize} does not divide {hvd.size()} ranks.")
    if args.batch_size % replicas or args.batch_size < replicas:
        raise ValueError(
            f"--batch-size {args.batch_size} does not divide over {replicas} ranks: it is the rows "
            "of all of them together."
        )
    return args.batch_size // replicas


def build(args: argparse.Namespace, task: ner_inputs.Task) -> keras.Model:
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
    model: keras.Model,
    args: argparse.Namespace,
    task: ner_inputs.Task,
    dev: ner_scores.Held,
    own: int,
) -> dict[str, Any]:
    """Train the model; returns the curves."""
    rows = task.rows["train"]
    data = ner_data.batches(rows, task.sentences["train"], task.labels, args.batch_size)
    steps = math.ceil(len(rows) / args.batch_size) * args.epochs
    optimizer = ner_model.optimizer_of(
        args.learning_rate, steps, args.warmup, args.weight_decay, args.clip_norm
    )
    model.compile(
        hvd.DistributedOptimizer(optimizer),
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
    task = on_every_rank(lambda: ner_inputs.read(args))
    for note in task.notes:
        console.print(note, highlight=False)
    model = on_every_rank(lambda: build(args, task))
    if args.checkpoint:
        on_every_rank(lambda: require_same_labels(args.checkpoint, task.labels))
    own = on_every_rank(lambda: own_rows(args))
    if args.parallelize is not None:
        model = hvd.parallelize(model, hvd.Mesh(tensor=divided(args)))
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
        console.print(f"{name}: {getattr(args, name)}", highlight=False, soft_wrap=True)
        console.print(ner_scores.table(each))
    if args.save:
        ner_model.save(model, task.config, task.labels, task.tokenizer, args.save)
    title = "1 rank" if hvd.size() == 1 else f"{hvd.size()} ranks"
    run = {"title": title, "history": history, "scores": found}
    if args.history and hvd.rank() == 0:
        args.history.write_text(json.dumps(run) + "\n")
    if args.curve and hvd.rank() == 0:
        from ner_curves import draw

        draw([run], args.curve)


if __name__ == "__main__":
    main()
