"""The command line of `hvdkit export`. What it needs is imported when it runs."""

from __future__ import annotations

import os
from typing import Any

import click

from hvdkit_cli.options import HELP, PATH, POSITIVE, Finite


@click.command("export", context_settings=HELP)
@click.argument("source", metavar="MODEL|CHECKPOINTS")
@click.option("--to", required=True, metavar="FORMAT", help="savedmodel, onnx or litert.")
@click.option(
    "--output",
    type=PATH,
    help="The file, or for savedmodel the folder. Default: named as the model, here.",
)
@click.option(
    "--model", metavar="FILE|MODULE:FUNCTION", help="The model that checkpoints are of, undivided."
)
@click.option("--quantize", metavar="int8", help="Weights of 8 bits.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:DTYPE:SIZES",
    help="An input of a model whose call is Python code, such as tokens:int32:any or "
    "image:float32:28,28,1, without the batch. Several make a dict.",
)
@click.option(
    "--examples",
    type=PATH,
    metavar="FILE.npz",
    help="A batch of real inputs by name, to be compared besides.",
)
@click.option("--batch-size", type=POSITIVE, help="Of every call later on. Default: any.")
@click.option("--length", type=POSITIVE, help="Of sequences, for sizes that are open otherwise.")
@click.option(
    "--tolerance",
    type=Finite(min=0),
    help="How far outputs may be from Keras's, as a share of the largest value. Default: 1e-4 in "
    "float32, 0.01 in float16, 0.05 in bfloat16, 0.1 with --quantize.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export_command(**asked: Any) -> None:
    """Export a model for inference, once its own runtime gives what Keras gives.

    MODEL is FILE.keras, or MODULE:FUNCTION that returns a model; CHECKPOINTS is a folder of
    checkpoints, or one of them, and needs --model. See docs/exporting.md.
    """
    # TensorFlow warns of what is tried here to find out what a model takes.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from hvdkit_cli.export.command import Asked, run

    run(Asked(**asked))
