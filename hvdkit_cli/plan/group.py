"""The command `hvdkit plan` and its subcommand; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hvdkit_cli.options import HELP, PATH, POSITIVE, Finite, prints_json, seconds


@click.group("plan", invoke_without_command=True, context_settings=HELP)
@click.option("--model", metavar="NAME", help="A model by its name: gpt3-175b, resnet-50, ...")
@click.option("--keras", metavar="FILE", help="A Keras model: FILE.keras, or MODULE:FUNCTION.")
@click.option("--layers", type=POSITIVE, help="Of a Transformer; with --model in place of its.")
@click.option("--width", type=POSITIVE, help="Size of the vectors between its layers.")
@click.option("--heads", type=POSITIVE, help="Its attention heads.")
@click.option("--context", type=POSITIVE, help="Tokens of a row.")
@click.option("--vocabulary", type=POSITIVE, help="Its tokens.")
@click.option("--parameters", metavar="N", help="Weights of any other model, such as 25.6M.")
@click.option("--flops", metavar="N", help="Its operations of a forward pass of a row: 7.7G.")
@click.option(
    "--rows-per-second",
    type=Finite(min=0, min_open=True),
    help="That one device trains, measured; for models that are known by their size.",
)
@click.option(
    "--cluster", metavar="NAME|FILE", help="A cluster by its name (dgx-a100), or its YAML file."
)
@click.option("--ranks", type=POSITIVE, help="Devices to use. Default: all of the cluster.")
@click.option("--batch", type=POSITIVE, help="Rows of a step, over all replicas.")
@click.option("--tokens", metavar="N", help="Length of the training, such as 300B.")
@click.option("--rows", metavar="N", help="Length of the training in rows, such as 115M images.")
@click.option("--precision", default="mixed_bfloat16", show_default=True)
@click.option(
    "--recompute",
    type=click.Choice(["none", "selective", "full"]),
    default="none",
    show_default=True,
    help="What the backward pass computes again.",
)
@click.option(
    "--exchange",
    "exchanges",
    multiple=True,
    default=("all-reduce", "bf16", "sharded"),
    show_default=True,
    help="To compare; may be given several times.",
)
@click.option("--mesh", "meshes", multiple=True, metavar="DxPxT", help="Only this; or several.")
@click.option("--micro-batch", type=POSITIVE, help="Rows at once. Default: the fastest.")
@click.option("--chunks", type=POSITIVE, help="Of a stage. Default: the fastest number.")
@click.option("--sequence-parallel", is_flag=True, help="Divide what is between layers, too.")
@click.option(
    "--layers-as",
    type=click.Choice(["keras", "fused", "flash", "flash-2023"]),
    default="keras",
    show_default=True,
    help="How a Transformer's layers are computed.",
)
@click.option(
    "--slots",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Variables of the optimizer for each weight.",
)
@click.option("--no-overlap", is_flag=True, help="Gradients travel after the backward pass.")
@click.option("--share-rows", is_flag=True, help="Unequal devices get rows by their speed.")
@prints_json
@click.option("--all", "all_", is_flag=True, help="Show all meshes, not the 12 fastest.")
@click.option("--picture", type=PATH, help="Draw the steps to this file.")
def plan_group(json_: bool, all_: bool, picture: Path | None, **asked: Any) -> None:
    """What a training would do on some cluster: memory, step time, energy and money of each mesh.

    hvdkit plan --model gpt3-175b --cluster dgx-a100 --ranks 1024 --batch 1536 --tokens 300B
    """
    command = click.get_current_context()
    if command.invoked_subcommand is not None:
        return
    if (
        asked["cluster"] is None
        and asked["batch"] is None
        and not any(asked[name] for name in ("model", "keras", "parameters", "layers"))
    ):
        click.echo(command.get_help())
        return
    for name in ("cluster", "batch"):
        if asked[name] is None:
            raise click.UsageError(f"--{name} is missing.")

    from hvdkit_cli.plan.command import run
    from hvdkit_cli.plan.options import Asked

    run(Asked(**asked), as_json=json_, rows=None if all_ else 12, picture=picture)


@plan_group.command("measure", context_settings=HELP)
@click.option("--ranks", "-np", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--hosts", "-H", help="Hosts and slots, as h1:4,h2:4; this one by default.")
@click.option("--interface", metavar="NAME", help="Network interface that jobs use there.")
@click.option("--largest", default=64.0, show_default=True, help="MiB of the largest all-reduce.")
@click.option("--rounds", default=7, show_default=True, type=POSITIVE, help="Of each.")
@seconds("--timeout", 300.0, "Seconds that it may take.")
@click.option("--output", type=PATH, help="The file to write. Default: print it.")
def measure_command(output: Path | None, **asked: Any) -> None:
    """Measure this machine, or some hosts, and write the cluster's file that `plan` reads.

    Needs Horovod: all ranks compute matrix products and move memory at the same time, and reduce
    tensors of many sizes. Let nothing else run.
    """
    from hvdkit_cli.plan.measure import Measuring, measure

    text = measure(Measuring(**asked))
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)
        click.echo(f"wrote {output}: hvdkit plan --cluster {output} ...")
