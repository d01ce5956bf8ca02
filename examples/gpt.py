"""Train a GPT on the text of Python's standard library, on one rank or on any mesh of ranks.

    python examples/gpt.py
    mpirun -np 4 python examples/gpt.py --tensor 2 --pipeline 2
    python examples/gpt.py --preset gpt3-175b --plan --memory 80 --tensor 8 --pipeline 16

The global batch is the same on every mesh, and so is the curve of the losses. Nothing is
downloaded: the tokenizer is trained on the text, which is the interpreter's own. docs/gpt.md
describes presets, memory and results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpt_data
import keras
from gpt_model import PRESETS, build_model, generate, stage_cuts
from rich.console import Console

import hvdkit as hvd
from hvdkit import parallel

GIB = 2**30
VOCABULARY_MULTIPLE = 128  # so that the model is the same for every tensor degree


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument("--preset", choices=PRESETS, default="tiny")
    model.add_argument("--layers", type=int, help="default: the preset's")
    model.add_argument("--context", type=int, help="tokens of a row; default: the preset's")
    model.add_argument("--vocabulary", type=int, help="default: the preset's")
    model.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16", "bfloat16"),
        default="float32",
    )

    mesh = parser.add_argument_group("mesh")
    mesh.add_argument("--data", type=int, help="replicas; default: as many as there are ranks for")
    mesh.add_argument("--pipeline", type=int, default=1, help="stages of a replica")
    mesh.add_argument("--tensor", type=int, default=1, help="ranks that divide a layer")
    mesh.add_argument("--sequence-parallel", action="store_true")
    mesh.add_argument(
        "--micro-batches",
        type=int,
        help="of a replica's batch; default: 1, or twice the stages of a pipeline",
    )
    mesh.add_argument("--recompute", action="store_true", help="keep only the inputs of a stage")

    training = parser.add_argument_group("training")
    training.add_argument("--batch-size", type=int, default=16, help="rows over all replicas")
    training.add_argument("--epochs", type=int, default=10)
    training.add_argument("--steps-per-epoch", type=int, default=50)
    training.add_argument("--learning-rate", type=float, default=1e-3, help="after the warm-up")
    training.add_argument("--warmup-steps", type=int, default=50)
    training.add_argument("--weight-decay", type=float, default=0.1)
    training.add_argument("--clip-norm", type=float, default=1.0, help="of all gradients together")
    training.add_argument(
        "--sharded-optimizer", action="store_true", help="each replica updates a share (ZeRO)"
    )
    training.add_argument("--validation-batches", type=int, default=8)
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--checkpoint", metavar="DIR", help="save here, and go on from here")
    training.add_argument("--history", type=Path, metavar="FILE", help="write the curves (JSON)")

    text = parser.add_argument_group("text")
    text.add_argument(
        "--text", type=Path, default=gpt_data.DEFAULT_TEXT, help="a folder with .py files"
    )
    text.add_argument("--cache", type=Path, default=gpt_data.DEFAULT_CACHE, help="for tokens")
    text.add_argument("--prompt", default="def ", help="what the text at the end begins with")
    text.add_argument("--length", type=int, default=64, help="tokens to write at the end")
    text.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    text.add_argument("--top-k", type=int, default=40, help="0: all tokens")

    memory = parser.add_argument_group("memory")
    memory.add_argument("--plan", action="store_true", help="only say what a rank needs")
    memory.add_argument(
        "--memory", type=float, metavar="GIB", help="a rank's; default: what is left"
    )
    return parser.parse_args(given)


def shape_of(args: argparse.Namespace) -> parallel.TransformerShape:
    """The preset, with the sizes that were asked for."""
    shape = PRESETS[args.preset]
    vocabulary = args.vocabulary or shape.vocabulary
    padded = math.ceil(vocabulary / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return replace(
        shape,
        layers=args.layers or shape.layers,
        context=args.context or shape.context,
        vocabulary=padded,
    )


def training_of(args: argparse.Namespace) -> parallel.Training:
    """What the plan has to know of the training."""
    return parallel.Training(
        batch_size=args.batch_size,
        micro_batches=args.micro_batches,
        precision=args.precision,
        sharded_optimizer=args.sharded_optimizer,
        sequence_parallel=args.sequence_parallel,
        recompute=args.recompute,
    )


def fits(
    shape: parallel.TransformerShape,
    degrees: parallel.Degrees,
    training: parallel.Training,
    limit: int,
    console: Console,
) -> bool:
    """Whether every rank has the memory it needs; prints the plan, and what would fit if not."""
    if problem := parallel.misfit(shape, degrees, training):
        console.print(f"The model does not divide over {degrees}: {problem}", highlight=False)
        return False
    ranks = parallel.plan_memory(shape, degrees, training)
    title = f"{shape.parameters / 1e6:,.1f} M parameters on {degrees}"
    console.print(parallel.memory_table(ranks, limit, title))
    if max(rank.total for rank in ranks) <= limit:
        return True
    smallest = parallel.smallest_mesh(shape, training, limit)
    console.print(
        "It does not fit, and does so on no mesh with this memory: use a smaller batch or more "
        "micro-batches."
        if smallest is None
        else f"It does not fit. The smallest mesh with this memory a rank: {smallest} "
        f"({smallest.ranks} ranks).",
        highlight=False,
    )
    return False


def build(
    shape: parallel.TransformerShape, degrees: parallel.Degrees, training: parallel.Training
) -> keras.Model:
    """The model of this rank."""
    micro_batches = training.micro_batches_on(degrees)
    if micro_batches == 1 and degrees.pipeline == 1 and not training.recompute:
        return build_model(shape, training.sequence_parallel)
    return parallel.PipelineModel(
        lambda: build_model(shape, training.sequence_parallel),
        micro_batches=micro_batches,
        schedule=training.schedule,
        cuts=stage_cuts(shape, degrees.pipeline),
        recompute=training.recompute,
    )


def optimizer_of(args: argparse.Namespace, exchange: Any = None) -> keras.optimizers.Optimizer:
    """AdamW, with a linear warm-up and a cosine to a tenth; biases and norms do not decay."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, args.epochs * args.steps_per_epoch - args.warmup_steps),
        alpha=0.1,
        warmup_target=args.learning_rate,
        warmup_steps=args.warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=args.weight_decay,
        beta_2=0.95,
        epsilon=1e-8,
        global_clipnorm=args.clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return hvd.DistributedOptimizer(optimizer, exchange=exchange)


class Perplexity(keras.callbacks.Callback):
    """Adds the perplexities, e to the power of the losses, to the results of an epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras calls it."""
        for name in ("loss", "val_loss"):
            if logs and name in logs:
                logs[name.replace("loss", "perplexity")] = math.exp(min(logs[name], 100.0))


def train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    corpus: gpt_data.Corpus,
    args: argparse.Namespace,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 2,
) -> dict[str, Any]:
    """Train the model; returns the curves."""
    shape, replicas = shape_of(args), hvd.size() // (args.pipeline * args.tensor)
    own = args.batch_size // replicas
    # A pass over the text ends with an epoch.
    rows = gpt_data.windows(corpus.train, shape.context, args.batch_size * args.steps_per_epoch)
    held_out = [
        part[: args.validation_batches * args.batch_size]
        for part in gpt_data.windows(corpus.validation, shape.context, args.batch_size)
    ]
    model.compile(optimizer, loss=parallel.VocabularyParallelCrossEntropy(name="loss"))
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), Perplexity(), *callbacks]
    if args.checkpoint:
        callbacks.append(hvd.callbacks.BackupAndRestore(args.checkpoint))
    history = model.fit(
        hvd.shard(rows, own, remainder="drop"),
        epochs=args.epochs,
        steps_per_epoch=args.steps_per_epoch,
        validation_data=hvd.shard(tuple(held_out), own),
        callbacks=callbacks,
        verbose=verbose if hvd.rank() == 0 else 0,
    )
    return history.history


def main() -> None:
    args = parse_arguments()
    shape, training, console = shape_of(args), training_of(args), Console(width=100)
    if args.plan:
        degrees = parallel.Degrees(args.data or 1, args.pipeline, args.tensor)
        limit = int(args.memory * GIB) if args.memory else parallel.rank_memory_limit()
        sys.exit(0 if fits(shape, degrees, training, limit, console) else 1)

    hvd.init()
    mesh = hvd.Mesh(args.data, args.pipeline, args.tensor)
    hvd.set_mesh(mesh)
    hvd.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    degrees = parallel.Degrees(mesh.data, mesh.pipeline, mesh.tensor)
    own = int(args.memory * GIB) if args.memory else parallel.rank_memory_limit(hvd.local_size())
    limit = min(hvd.allgather_object(own))
    if hvd.rank() != 0:
        console.quiet = True
    if not fits(shape, degrees, training, limit, console):
        hvd.barrier()  # rank 0 has to have said why before any rank ends
        sys.exit(1)

    corpus = gpt_data.load_corpus(args.text, shape.vocabulary, args.cache)
    model = build(shape, degrees, training)
    exchange = hvd.exchange.Sharded() if args.sharded_optimizer else None
    history = train(model, optimizer_of(args, exchange), corpus, args)
    if args.history and hvd.rank() == 0:
        args.history.write_text(json.dumps({"mesh": str(degrees), "history": history}) + "\n")
    tokens = generate(
        model,
        corpus.encode(args.prompt),
        shape,
        mesh,
        length=args.length,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
    )
    console.print(f"text:\n{corpus.decode(tokens)}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
