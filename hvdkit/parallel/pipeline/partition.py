"""From a model to the stage of this rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import HvdkitError, raise_everywhere, require_initialized, require_same, topology
from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.graph.layer_sequence import LayerSequence, Part, variables_of
from hvdkit.graph.rebuild import part_model
from hvdkit.mesh.mesh import Mesh, current_mesh
from hvdkit.parallel.pipeline.cuts import cut
from hvdkit.parallel.pipeline.gathered_weights import UnsplitModel
from hvdkit.parallel.pipeline.given_values import GivenValues
from hvdkit.parallel.pipeline.lazy_variables import deferred, initialize, is_released, release
from hvdkit.parallel.pipeline.links import Ends, Link, LocalLink, RemoteLink
from hvdkit.parallel.pipeline.tied import Tied, tied_variables
from hvdkit.schedules.schedules import Schedule
from hvdkit.state import outside_variables

ModelOrFunction = Any
"""A Keras model, or a function without arguments that builds one."""


@dataclass(frozen=True)
class ChunkModel:
    """The layers of a chunk that this rank holds.

    Attributes:
        model: them, as a model from a list of tensors to a list of tensors.
        ends: what comes in and goes out.
    """

    model: keras.Model
    ends: Ends


@dataclass(frozen=True)
class Partition:
    """A model, split over the ranks of a pipeline.

    Attributes:
        unsplit: the model that was given.
        chunks: this rank's chunks.
        messages: to the other stages.
        tied: weights that several stages use.
        masked: whether Keras attaches a mask to one of the unsplit model's outputs.
    """

    unsplit: UnsplitModel
    chunks: list[ChunkModel]
    messages: PointToPoint
    tied: Tied
    masked: bool


def required_mesh() -> Mesh:
    """The mesh of `hvd.set_mesh`.

    Raises:
        ValueError: on every rank: there is none.
        HvdkitError: on every rank: the mesh has several stages, and the job runs over Gloo.
    """
    require_initialized("PipelineModel")
    mesh = current_mesh()
    if mesh is None:
        raise ValueError(
            "PipelineModel needs a mesh that says which ranks are stages: call "
            "hvd.set_mesh(hvd.Mesh(pipeline=...)) first."
        )
    if mesh.pipeline > 1 and not topology.mpi_enabled():
        raise HvdkitError(
            "a pipeline sends activations from rank to rank over MPI, but this job runs over "
            "Gloo, which Horovod has no such messages for. Start it with mpirun, or with "
            "horovodrun --mpi."
        )
    return mesh


def partition(
    model: ModelOrFunction,
    mesh: Mesh,
    schedule: Schedule,
    micro_batches: int,
    cuts: Sequence[str] | None,
) -> Partition:
    """Give this rank its chunks of a model, and free the rest; all ranks call it.

    Args:
        model: a model, or a function that builds it: then only this rank's variables are made.
        mesh: which rank is which stage.
        schedule: says how many chunks a stage holds.
        micro_batches: number of micro-batches.
        cuts: names of the layers to cut after; None to balance.

    Raises:
        ValueError: on every rank: the model can't be cut so, or the numbers do not fit.
        RankMismatchError: on every rank: the ranks give different models or settings.
        HvdkitError: on every rank: there is no MPI to send over.
    """
    unsplit, given, sequence, parts = _cut_alike(model, mesh, schedule, micro_batches, cuts)
    _require_same(unsplit, parts, schedule, micro_batches)
    messages = PointToPoint(mesh.pipeline_set, "a pipeline sends activations")
    inputs = {id(tensor): i for i, tensor in enumerate(sequence.inputs)}
    links = [None, *_links(parts, inputs, mesh, messages), None]
    numbers = range(mesh.pipeline_index, len(parts), mesh.pipeline)
    models = [part_model(parts[n], f"{unsplit.name}_chunk_{n}") for n in numbers]
    chunks = [
        ChunkModel(
            model, Ends([inputs.get(id(t)) for t in parts[n].inputs], links[n], links[n + 1])
        )
        for n, model in zip(numbers, models, strict=True)
    ]
    for n, part in zip(numbers, models, strict=True):
        part.leave_penalties_of(v for before in parts[:n] for v in variables_of(before.steps))
    owners = _owners(unsplit, parts, mesh.pipeline)
    own = [variable for part in models for variable in part.variables]
    if mesh.pipeline_index == 0:  # it has what no layer in the graph has
        own += [v for v in unsplit.variables if id(v) not in owners]
    _keep_only(unsplit, own, given)
    for part in models:
        outside_variables.renew(part)
    tied = Tied(tied_variables(parts, mesh.pipeline), messages, mesh.pipeline_set)
    tied.refresh()
    model_of_all = UnsplitModel(unsplit, owners, messages, mesh.pipeline_set)
    return Partition(model_of_all, chunks, messages, tied, any(parts[-1].masked))


def _owners(unsplit: Any, parts: list[Part], stages: int) -> dict[int, int]:
    """The stage of each variable, by its id: the first of those that use it."""
    owners: dict[int, int] = {}
    for n, part in enumerate(parts):
        for variable in variables_of(part.steps):
            owners[id(variable)] = min(owners.get(id(variable), stages), n % stages)
    return owners


def _cut_alike(
    model: ModelOrFunction,
    mesh: Mesh,
    schedule: Schedule,
    micro_batches: int,
    cuts: Sequence[str] | None,
) -> tuple[Any, GivenValues, LayerSequence, list[Part]]:
    """The unsplit model and its chunks; what is wrong on one rank is an error on all."""
    problem, cause, found = None, None, None
    try:
        _require_schedule(schedule, mesh.pipeline, micro_batches)
        unsplit, given = _built(model)
        found = unsplit, given, *cut(unsplit, mesh.pipeline * schedule.chunks, cuts)
    except Exception as error:
        problem, cause = _text_of(error), error
    try:
        raise_everywhere(problem, ValueError)
    except ValueError as error:
        raise error from cause
    assert found is not None
    return found


def _text_of(error: Exception) -> str:
    """What went wrong when the model was built or cut."""
    if isinstance(error, ValueError):
        return str(error)
    return (
        f"{type(error).__name__}: {error} (while the model was built without values; if the "
        "function works by itself, give PipelineModel the model: PipelineModel(build()))"
    )


def _keep_only(unsplit: Any, variables: list[Any], given: GivenValues) -> None:
    """Give these variables of a model their first values, and take the values of the others."""
    initialize(variables, given)
    kept = {id(variable) for variable in variables}
    release(variable for variable in unsplit.variables if id(variable) not in kept)


def _built(model: ModelOrFunction) -> tuple[Any, GivenValues]:
    """The unsplit model, and the values that its variables were given while it was built."""
    if isinstance(model, keras.Model):
        if any(is_released(variable) for variable in model.variables):
            raise ValueError(
                f"model {model.name!r} was given to another PipelineModel, where it has lost the "
                "weights of other stages. Build it anew for each."
            )
        return model, GivenValues()
    if not callable(model):
        raise ValueError(
            f"PipelineModel takes a Keras model or a function that builds one, not {model!r}."
        )
    with deferred() as given:
        unsplit = model()
    if not isinstance(unsplit, keras.Model):
        raise ValueError(f"a pipeline is made from a Keras model, not {type(unsplit).__name__}.")
    optimizer = getattr(unsplit, "optimizer", None)
    later = [*unsplit.variables, *([] if optimizer is None else optimizer.variables)]
    ids = {id(variable) for variable in later}
    unsplit.optimizer, unsplit.compiled = None, False  # the function may have compiled it
    initialize((v for v in given.still_made() if id(v) not in ids), given)
    return unsplit, given


def _require_schedule(schedule: Schedule, stages: int, micro_batches: int) -> None:
    if isinstance(micro_batches, bool) or not isinstance(micro_batches, int) or micro_batches < 1:
        raise ValueError(f"micro_batches is an integer above 0, not {micro_batches!r}.")
    if problem := schedule.problem(stages, micro_batches):
        raise ValueError(problem)


def _require_same(unsplit: Any, parts: list[Part], schedule: Schedule, micro_batches: int) -> None:
    # Not by names, which Keras numbers by what a process has made before.
    settings = [f"schedule {schedule!r}", f"{micro_batches} micro-batches"]
    chunks = [f"a chunk of {', '.join(type(s.operation).__name__ for s in p.steps)}" for p in parts]
    variables = [dtype_and_shape(v.dtype, v.shape) for v in unsplit.variables]
    require_same("the models and settings of the pipeline", [*settings, *chunks, *variables])


def _links(
    parts: list[Part], inputs: dict[int, int], mesh: Mesh, messages: PointToPoint
) -> list[Link]:
    """The links after each chunk but the last, as this rank sees them."""
    if mesh.pipeline == 1:
        return [LocalLink() for _ in parts[1:]]
    stage = mesh.pipeline_index

    def link(number: int, part: Part) -> Link:
        sent = sum(id(tensor) not in inputs for tensor in part.outputs)
        sends = number % mesh.pipeline == stage
        peer = (stage + 1 if sends else stage - 1) % mesh.pipeline
        return RemoteLink(messages, number, peer, sent)

    return [link(number, part) for number, part in enumerate(parts[:-1])]
