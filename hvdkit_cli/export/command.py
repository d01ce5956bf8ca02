"""What `hvdkit export` does with its options."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hvdkit.errors import CheckpointError, HvdkitError
from hvdkit_cli.errors import CommandError
from hvdkit_cli.keras_model import keras_model

_SUFFIXES = {"savedmodel": "", "onnx": ".onnx", "litert": ".tflite"}
_SEE = "see docs/exporting.md, and hvdkit export --help"


@dataclass(frozen=True)
class Asked:
    """What the command line says; names are those of its options."""

    source: str
    to: str
    output: Path | None
    model: str | None
    quantize: str | None
    inputs: tuple[str, ...]
    examples: Path | None
    batch_size: int | None
    length: int | None
    tolerance: float | None
    overwrite: bool


def run(asked: Asked) -> None:
    """Export, and print what was written.

    Raises:
        CommandError: it can't be done, or gives something else than Keras; nothing is left.
    """
    if asked.to not in _SUFFIXES:
        raise CommandError(
            f"--to {asked.to}: hvdkit exports to {', '.join(_SUFFIXES)}.", "--to onnx"
        )
    output = asked.output or Path(_name(asked.source) + _SUFFIXES[asked.to])
    if output.exists() and not asked.overwrite:
        raise CommandError(f"{output} is there already.", "--output ANOTHER, or --overwrite")
    examples = None if asked.examples is None else _examples(asked.examples)
    inputs = _inputs(asked.inputs)
    model = _model(asked)
    from hvdkit.export.export_model import export_model
    from hvdkit.export.exporting import size_of

    try:
        exported = export_model(
            model, output, asked.to,  # type: ignore[arg-type]
            quantize=asked.quantize,  # type: ignore[arg-type]
            inputs=inputs, examples=examples, batch_size=asked.batch_size, length=asked.length,
            tolerance=asked.tolerance, overwrite=asked.overwrite,
        )  # fmt: skip
    except HvdkitError as error:
        raise CommandError(str(error), _SEE) from error
    click.echo(f"{output}: {size_of(output) / 2**20:.2f} MiB")
    for what, specs in (("takes", exported.inputs), ("gives", exported.outputs)):
        click.echo(f"  {what} {'; '.join(map(str, specs))}")
    if exported.quantization is not None:
        click.echo(f"  int8: differs from the floating-point model by {exported.quantization}")
    if exported.quantization != exported.difference:
        click.echo(
            f"  run by its own runtime on {exported.comparisons} batches, differs from Keras by "
            f"{exported.difference}"
        )


def _name(source: str) -> str:
    module, _, function = source.partition(":")
    return function or Path(module).resolve().with_suffix("").name


def _model(asked: Asked) -> Any:
    source = Path(asked.source)
    if ":" not in asked.source and not source.exists():
        raise CommandError(f"there is no {source}.", "hvdkit export FILE.keras --to onnx")
    if not source.is_dir():
        if asked.model is not None:
            raise CommandError(
                f"{source} and --model {asked.model} both name a model.", "leave one of them"
            )
        return keras_model(asked.source, "MODEL")
    if asked.model is None:
        raise CommandError(
            f"{source} is a folder: of checkpoints, which hold weights and no model.",
            "--model FILE.keras, or --model MODULE:FUNCTION, whose function returns the model as "
            "it is before it is divided",
        )
    from hvdkit.export.checkpoints import is_checkpoint, restore_weights

    if not is_checkpoint(source):
        raise CommandError(f"there is no checkpoint in {source}.", _SEE)
    model = keras_model(asked.model, "--model")
    try:
        manifest = restore_weights(source, model)
    except (CheckpointError, HvdkitError, ValueError) as error:
        raise CommandError(str(error), _SEE) from error
    click.echo(f"weights of {manifest.path}")
    return model


def _inputs(texts: tuple[str, ...]) -> Any:
    """The structure that the options --input mean; None for none."""
    if not texts:
        return None
    import keras

    found = {}
    for text in texts:
        parts = text.split(":")
        sizes = [each.strip() for each in parts[-1].split(",") if each.strip()]
        if len(parts) != 3 or not all(each.isdecimal() or each == "any" for each in sizes):
            raise CommandError(f"--input {text} is not NAME:DTYPE:SIZES.", "--input x:float32:8")
        name, dtype, _ = parts
        if name in found:
            raise CommandError(f"--input {name} is there twice.", "give each input a name")
        shape = (None, *(None if each == "any" else int(each) for each in sizes))
        try:
            found[name] = keras.InputSpec(shape=shape, dtype=dtype, name=name)
        except ValueError as error:  # a type that there is not
            raise CommandError(f"--input {text}: {error}", "--input x:float32:8") from error
    return found if len(found) > 1 else next(iter(found.values()))


def _examples(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise CommandError(
            f"--examples {path}: {error}", "numpy.savez('examples.npz', NAME_OF_AN_INPUT=array)"
        ) from error
