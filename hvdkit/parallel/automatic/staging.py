"""The stages of a pipeline, balanced by measured time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import keras
import tensorflow as tf

from hvdkit.graph.balance import balance
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.parallel.automatic.compiling import over_ranks
from hvdkit.parallel.pipeline.cuts import problem_at
from hvdkit.parallel.pipeline.model import PipelineModel
from hvdkit.parallel.pipeline.partition import required_mesh
from hvdkit.planner.layer_costs import measured_times, memory
from hvdkit.schedules.schedules import GPipe

_ROWS, _SLOTS = 8, 2


class StagedModel(PipelineModel):
    """A `PipelineModel` whose optimizer has the exchange of `hvd.parallelize`."""

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """As `PipelineModel.compile`."""
        super().compile(over_ranks(self, optimizer), loss, **options)


class Blocks:
    """What a pipeline can be cut between.

    Args:
        sequence: the model's layers.
        stages: how many stages there will be.

    Raises:
        ValueError: the model has fewer blocks that can be separated.
        HvdkitError: the job has no MPI to send over.
    """

    def __init__(self, sequence: LayerSequence, stages: int) -> None:
        required_mesh()
        self._sequence = sequence
        self._stages = stages
        self._names = cut_names(sequence)
        self._blocks = list(pairwise([0, *self._names, len(sequence.steps)]))
        if len(self._blocks) < stages:
            raise ValueError(
                f"model {sequence.name!r} can be cut into {len(self._blocks)} stages at most "
                "(layers that share weights, and models that are called twice, stay together), not "
                f"{stages}."
            )

    def times(self) -> list[float]:
        """Milliseconds of each block, measured here."""
        device = tf.config.list_logical_devices()[-1].name
        return measured_times(self._sequence, self._blocks, _ROWS, [device])

    def cuts(self, times: Sequence[float]) -> list[str]:
        """Names of the layers after which to cut, so that the slowest stage is as fast as can be.

        Args:
            times: of the blocks.
        """
        sizes = memory(self._sequence, self._blocks, _ROWS, _SLOTS)
        ranges = balance(times, sizes, self._stages)
        return [self._names[self._blocks[first][0]] for first, _ in ranges[1:]]


def staged(model: keras.Model, cuts: Sequence[str], micro_batches: int | None) -> StagedModel:
    """The pipeline of a model; all ranks call it."""
    if micro_batches is None and has_statistics(model):
        return StagedModel(model, micro_batches=1, schedule=GPipe(), cuts=cuts)
    return StagedModel(model, micro_batches=micro_batches or 2 * (len(cuts) + 1), cuts=cuts)


def cut_names(sequence: LayerSequence) -> dict[int, str]:
    """The points at which a model can be cut into stages, with the layer before each."""
    points = sequence.cut_points()
    return {p: name for p in points if (name := _name_of(sequence, p)) is not None}


def has_statistics(model: keras.Model) -> bool:
    """Whether a layer looks at all rows of a micro-batch, so that there is one by default."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for layer in model._flatten_layers()
    )


def _name_of(sequence: LayerSequence, point: int) -> str | None:
    """What a point is called; None where it has no name of its own, or can't be cut."""
    if problem_at(sequence, point) is not None:
        return None
    step: Any = sequence.steps[point - 1]
    name = "/".join([*sequence.inside.get(id(step), ()), step.operation.name])
    try:
        return name if sequence.point_after(name) == point else None
    except ValueError:
        return None
