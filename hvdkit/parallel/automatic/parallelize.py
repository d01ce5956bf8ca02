"""`parallelize`: an ordinary model that is divided over the ranks by itself."""

from __future__ import annotations

import os
from typing import Any

import keras

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import broadcast_object, require_initialized, require_same, topology
from hvdkit.exchange.base import Exchange
from hvdkit.exchange.options import require_exchange
from hvdkit.exchange.sharded.exchange import Sharded
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.mesh.variable import is_seed_state
from hvdkit.parallel.automatic.agreed import on_all
from hvdkit.parallel.automatic.choice import Choice
from hvdkit.parallel.automatic.compiling import remember
from hvdkit.parallel.automatic.dividing import divide_layers, is_divided
from hvdkit.parallel.automatic.kinds import Roles
from hvdkit.parallel.automatic.placed import placed
from hvdkit.parallel.automatic.planning import planned
from hvdkit.parallel.automatic.report import ParallelPlan
from hvdkit.parallel.automatic.staging import Blocks, staged
from hvdkit.parallel.pipeline.cuts import require_plain
from hvdkit.planner.transformer import Degrees
from hvdkit.state.broadcast import broadcast_variables
from hvdkit.watch.activity import pause


def parallelize(
    model: keras.Model,
    mesh: Mesh | None = None,
    exchange: Exchange | None = None,
    *,
    batch_size: int | None = None,
    length: int | None = None,
    cluster: str | os.PathLike[str] | None = None,
    micro_batches: int | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Divide an ordinary Keras model over the ranks of the job; every rank calls it.

    Large layers are sharded over the ranks of a tensor group, in pairs that need one collective
    each way; consecutive layers become stages of a pipeline, balanced by measured time; the rest is
    replicated. All ranks take rank 0's weights. What the model gives for a random batch, and its
    gradients, are compared before and after, so that a layer is divided only where nothing changes.

    The layers are divided in place: they are the same objects, and so is the model, but for a
    pipeline, which is a `PipelineModel` of it. The mesh becomes the current one (`hvd.set_mesh`).
    Compile the result as ever: a plain optimizer is made distributed, with `exchange`. Data is
    divided by `hvd.shard`.

    Args:
        model: a built functional or Sequential model, with its weights; not yet trained.
        mesh: the mesh; None for the current one, or, if there is none, the fastest by the planner
            of `hvdkit plan` among those that the model can take and that fit into memory.
        exchange: how replicas stay together, such as `hvd.exchange.Sharded()`; None for an
            average of gradients, or what the planner chooses with the mesh. With stages or tensor
            groups make it after `hvd.set_mesh(mesh)`: it keeps the ranks that it is for.
        batch_size: rows of a step over all replicas, for the planner; None for 32 a rank.
        length: for the planner, sizes of inputs that the model leaves open, such as the length of
            texts.
        cluster: for the planner, what the job runs on: a name or a file as for `hvdkit plan
            --cluster`; None for that of `HVDKIT_CLUSTER`, or, without it, what is measured now.
        micro_batches: of a pipeline; None for what the planner chooses, or, with a mesh that was
            given, twice the stages; 1 with `BatchNormalization`.
        verbose: whether rank 0 prints what was chosen, and why.

    Returns:
        The model, not compiled. `save` writes the undivided model, of the original classes.

    Raises:
        NotInitializedError: `hvd.init` has not been called.
        ValueError: on every rank, before anything is changed: the model can't be divided; it names
            the layer and the reason. Or no mesh fits.
        RankMismatchError: on every rank: the ranks have different models.
        HvdkitError: on every rank: a pipeline without MPI, or a model that divided would give
            something else.

    Example:
        >>> model = hvd.parallelize(build_model(), hvd.Mesh(tensor=2))
        >>> model.compile("adam", loss="mse")
        >>> model.fit(hvd.shard((x, y), batch_size=32))
    """
    require_initialized("hvd.parallelize()")
    sequence = on_all(lambda: _checked(model, exchange, batch_size, length))
    kinds = [type(step.operation).__name__ for step in sequence.steps]
    shapes = [dtype_and_shape(v.dtype, v.shape) for v in model.variables]
    require_same("the models to divide", [*kinds, *shapes])
    before = current_mesh()
    mesh = before if mesh is None else mesh
    choice = Choice(Degrees())
    if mesh is None:
        choice = planned(model, sequence, exchange, batch_size, length, cluster, micro_batches)
        mesh = Mesh(choice.degrees.data, choice.degrees.pipeline, choice.degrees.tensor)
        micro_batches = micro_batches or choice.micro_batches
    set_mesh(mesh)
    try:
        if exchange is None and choice.exchange == "sharded":
            exchange = Sharded()
        return _divided(model, sequence, mesh, choice, exchange, micro_batches, verbose)
    except Exception:
        set_mesh(before)
        raise


def _divided(
    model: keras.Model,
    sequence: LayerSequence,
    mesh: Mesh,
    choice: Choice,
    exchange: Exchange | None,
    micro_batches: int | None,
    verbose: bool,
) -> keras.Model:
    degrees = Degrees(mesh.data, mesh.pipeline, mesh.tensor)
    how = "an average of the gradients" if exchange is None else type(exchange).__name__
    plan = ParallelPlan(
        model.name, f"{degrees} ({choice.reason})", how, degrees, dict(choice.others)
    )
    if mesh.pipeline > 1:
        plan.cuts = _cuts(sequence, mesh.pipeline)
    _start_alike(model, mesh)
    roles = divide_layers(model, sequence, mesh) if mesh.tensor > 1 else Roles()
    plan.placed = placed(sequence, plan.cuts, roles)
    plan.add(roles)
    _uncompile(model, plan)
    _note_statistics(model, mesh, plan)
    parallel = staged(model, plan.cuts, micro_batches) if mesh.pipeline > 1 else model
    remember(parallel, exchange, plan)
    if verbose and topology.rank() == 0:
        plan.print()
    return parallel


def _start_alike(model: keras.Model, mesh: Mesh) -> None:
    """Let all ranks have rank 0's weights, and a tensor group the random states of its first."""
    seeds = [v for v in model.variables if is_seed_state(v)]
    broadcast_variables([v for v in model.variables if not is_seed_state(v)], 0)
    # Replicas draw for their own rows.
    first = mesh.rank_at(mesh.data_index, mesh.pipeline_index, 0)
    broadcast_variables(seeds, first, process_set=mesh.tensor_set)


def _cuts(sequence: LayerSequence, stages: int) -> list[str]:
    """Where a pipeline is cut, by the times of rank 0."""
    blocks = on_all(lambda: Blocks(sequence, stages))

    def times() -> list[float] | None:
        if topology.rank() != 0:
            return None
        with pause("measuring a model's layers"):
            return blocks.times()

    return blocks.cuts(broadcast_object(on_all(times), name="hvdkit.times_of_blocks"))


def _checked(
    model: Any, exchange: Exchange | None, batch_size: int | None, length: int | None
) -> LayerSequence:
    """The layers of a model that can be divided.

    Raises:
        ValueError: it can't be.
    """
    if exchange is not None:
        require_exchange(exchange)
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} of hvd.parallelize is a number above 0, not {value!r}.")
    require_plain(model)
    if is_divided(model):
        raise ValueError(f"model {model.name!r} is divided already: build it anew.")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and int(optimizer.iterations) > 0:
        raise ValueError(
            f"model {model.name!r} has been trained with an optimizer whose variables would be "
            "lost: divide it before the first step, or give it a fresh optimizer with compile()."
        )
    return flattened(model)


def _uncompile(model: Any, plan: ParallelPlan) -> None:
    if model.compiled:
        model.optimizer, model.compiled = None, False
        plan.notes.append("the model was compiled: compile it again")


def _note_statistics(model: keras.Model, mesh: Mesh, plan: ParallelPlan) -> None:
    kinds = keras.layers.BatchNormalization
    found = [x for x in model._flatten_layers() if isinstance(x, kinds) and x.trainable]
    if found and mesh.data > 1:
        plan.notes.append(
            f"{found[0].name} ({len(found)} BatchNormalization) sees the rows of its replica only: "
            "hvd.SyncBatchNormalization sees all"
        )
