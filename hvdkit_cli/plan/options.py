"""The options of `hvdkit plan`, and the model, cluster and job that they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.planner.cluster import Cluster
from hvdkit.planner.cluster_file import find_cluster
from hvdkit.planner.exchange_costs import exchange_cost
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.presets import preset
from hvdkit.planner.transformer import Degrees, TransformerShape
from hvdkit.planner.transformer_work import Transformer
from hvdkit.planner.work import MeasuredModel, Model
from hvdkit_cli.errors import CommandError
from hvdkit_cli.keras_model import keras_model

_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_SIZES = ("layers", "width", "heads", "context", "vocabulary")


@dataclass(frozen=True)
class Asked:
    """What the command line says; names are those of its options."""

    model: str | None
    keras: str | None
    layers: int | None
    width: int | None
    heads: int | None
    context: int | None
    vocabulary: int | None
    parameters: str | None
    flops: str | None
    rows_per_second: float | None
    cluster: str
    ranks: int | None
    batch: int
    tokens: str | None
    rows: str | None
    precision: str
    recompute: str
    exchanges: tuple[str, ...]
    meshes: tuple[str, ...]
    micro_batch: int | None
    chunks: int | None
    sequence_parallel: bool
    layers_as: str
    slots: int
    no_overlap: bool
    share_rows: bool

    def the_cluster(self) -> Cluster:
        """Raises: CommandError: it can't be read."""
        try:
            found = find_cluster(self.cluster)
            return found if self.ranks is None else found.with_ranks(self.ranks)
        except (HvdkitError, ValueError) as error:
            raise CommandError(str(error), "mend the cluster's file, or --ranks") from error

    def the_model(self, cluster: Cluster) -> Model:
        """Raises: CommandError: it is not said what it is, or twice."""
        ways = [
            name
            for name, given in (
                ("--model", self.model),
                ("--keras", self.keras),
                ("--parameters", self.parameters),
            )
            if given
        ]
        sizes = {name: getattr(self, name) for name in _SIZES if getattr(self, name) is not None}
        if len(ways) > 1:
            raise CommandError(f"{' and '.join(ways)} each name a model.", "leave one of them")
        if self.keras:
            model: Model = _from_keras(self.keras)
        elif self.parameters:
            model = self._by_numbers()
        elif self.model:
            model = _checked(lambda: preset(str(self.model)))
        else:
            return self._by_sizes(sizes)
        if sizes and isinstance(model, Transformer):
            model = Transformer(replace(model.shape, **sizes), model.name)
        elif sizes:
            raise CommandError(
                f"{model.name} has no --{' --'.join(sizes)}: these are sizes of a Transformer.",
                "leave them out",
            )
        if self.rows_per_second:
            if not isinstance(model, MeasuredModel):
                raise CommandError(
                    "--rows-per-second is for models that are known by their size only.",
                    "leave it out",
                )
            names = {device.name for device, _ in cluster.in_use()}
            measured = dict.fromkeys(names, self.rows_per_second)
            model = replace(model, rows_per_second=measured)
        return model

    def _by_sizes(self, sizes: dict[str, int]) -> Model:
        missing = [name for name in _SIZES if name not in sizes]
        if missing:
            raise CommandError(
                f"the model is not known: --{' --'.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing.",
                "name one with --model (such as gpt3-175b or resnet-50), a Keras model with "
                "--keras, or all sizes",
            )
        layers, width, heads, context, vocabulary = (sizes[name] for name in _SIZES)
        return Transformer(TransformerShape(layers, width, heads, context, vocabulary))

    def _by_numbers(self) -> Model:
        if not self.flops:
            raise CommandError(
                "--parameters needs --flops: operations of a forward pass of a row.",
                "--parameters 25.6M --flops 7.7G",
            )
        parameters = number(str(self.parameters), "--parameters")
        return MeasuredModel("the model", int(parameters), number(self.flops, "--flops"))

    def the_job(self) -> PlannedJob:
        """Raises: CommandError: something in it is not known."""
        job: PlannedJob = _checked(
            lambda: PlannedJob(
                batch=self.batch,
                precision=self.precision,
                recompute=self.recompute,  # type: ignore[arg-type]
                micro_batch=self.micro_batch,
                chunks=self.chunks,
                sequence_parallel=self.sequence_parallel,
                implementation_name=self.layers_as,
                overlap=not self.no_overlap,
                share_rows=self.share_rows,
                optimizer_slots=self.slots,
            )
        )
        return job

    def the_exchanges(self) -> list[Any]:
        """Raises: CommandError: one is not known."""
        return [_checked(lambda name=name: exchange_cost(name)) for name in self.exchanges]

    def the_meshes(self) -> list[Degrees] | None:
        """Raises: CommandError: one is no mesh."""
        return [_mesh(text) for text in self.meshes] or None

    def steps(self, model: Model) -> float | None:
        """Steps of the whole training; None where its length is not said."""
        if self.tokens and self.rows:
            raise CommandError("--tokens and --rows both say how long to train.", "leave one")
        if self.tokens:
            return number(self.tokens, "--tokens") / self.batch / model.tokens_of_row
        return number(self.rows, "--rows") / self.batch if self.rows else None


def number(text: str, option: str) -> float:
    """A number with K, M, B or G, T behind it.

    Raises:
        CommandError: it is none, or not above 0.
    """
    found = re.fullmatch(r"([0-9]+\.?[0-9]*(?:[eE][0-9]+)?)([KMBGT]?)", text.strip())
    value = float(found[1]) * _SCALES[found[2]] if found else 0.0
    if value <= 0:
        raise CommandError(f"{option}: {text!r} is no number above 0.", f"{option} 300B")
    return value


def _mesh(text: str) -> Degrees:
    parts: Sequence[str] = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise CommandError(
            f"--mesh: {text!r} is no mesh.", "--mesh DATAxPIPELINExTENSOR, such as 4x2x8"
        )
    return Degrees(*map(int, parts))


def _from_keras(where: str) -> Model:
    """A model from a .keras file, or what a function of a module returns (module:function)."""
    model = keras_model(where, "--keras")
    try:
        from hvdkit.planner.keras_model import measured_model

        return measured_model(model)
    except (ImportError, AttributeError, HvdkitError, ValueError, TypeError) as error:
        raise CommandError(
            f"--keras {where}: {error}", "check that it is a built Keras model, with an Input"
        ) from error


def _checked(make: Any) -> Any:
    try:
        return make()
    except ValueError as error:
        raise CommandError(str(error), "see hvdkit plan --help") from error
