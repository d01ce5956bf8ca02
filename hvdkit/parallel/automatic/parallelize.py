"""`parallelize`: an ordinary model that is divided over the ranks by itself."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import (
    allgather_object,
    broadcast_object,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.exchange.base import Exchange
from hvdkit.exchange.options import require_exchange
from hvdkit.exchange.sharded.exchange import Sharded
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.mesh.mesh import Mesh, current_mesh, set_mesh
from hvdkit.mesh.variable import is_seed_state
from hvdkit.parallel.automatic.agreed import on_all
from hvdkit.parallel.automatic.choice import Choice, Job, Needs, choose
from hvdkit.parallel.automatic.compiling import remember
from hvdkit.parallel.automatic.dividing import divide_layers, find_roles, is_divided
from hvdkit.parallel.automatic.report import ParallelPlan
from hvdkit.parallel.automatic.staging import Blocks, staged
from hvdkit.parallel.pipeline.cuts import require_plain
from hvdkit.planner.layer_costs import memory
from hvdkit.planner.memory_limit import rank_memory_limit
from hvdkit.planner.transformer import Degrees
from hvdkit.state.broadcast import broadcast_variables

_ROWS, _SLOTS = 32, 2  # of a rank's batch, and of the optimizer (Adam), for the estimate


def parallelize(
    model: keras.Model,
    mesh: Mesh | None = None,
    exchange: Exchange | None = None,
    *,
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
        mesh: the mesh; None for the current one, or, if there is none, the first that fits into
            memory: replicas, replicas that share the optimizer's variables, tensor groups inside a
            host, stages.
        exchange: how replicas stay together, such as `hvd.exchange.Sharded()`; None for an
            average of gradients, or what goes with the chosen mesh.
        micro_batches: of a pipeline; None for twice the stages, or 1 with `BatchNormalization`.
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
    sequence = on_all(lambda: _checked(model, exchange))
    kinds = [type(step.operation).__name__ for step in sequence.steps]
    shapes = [dtype_and_shape(v.dtype, v.shape) for v in model.variables]
    require_same("the models to divide", [*kinds, *shapes])
    before, reason = current_mesh(), "as given"
    mesh = before if mesh is None else mesh
    if mesh is None:
        choice = _chosen(model, sequence)
        mesh, reason = _made(choice.degrees), choice.reason
        if exchange is None and choice.sharded:
            exchange = Sharded()
    set_mesh(mesh)
    try:
        return _divided(model, sequence, mesh, reason, exchange, micro_batches, verbose)
    except Exception:
        set_mesh(before)
        raise


def _divided(
    model: keras.Model,
    sequence: LayerSequence,
    mesh: Mesh,
    reason: str,
    exchange: Exchange | None,
    micro_batches: int | None,
    verbose: bool,
) -> keras.Model:
    plan = ParallelPlan(
        model.name,
        f"data {mesh.data} x pipeline {mesh.pipeline} x tensor {mesh.tensor} ({reason})",
        "an average of the gradients" if exchange is None else type(exchange).__name__,
    )
    if mesh.pipeline > 1:
        plan.cuts = _cuts(sequence, mesh.pipeline)
    _start_alike(model, mesh)
    if mesh.tensor > 1:
        plan.add(divide_layers(model, sequence, mesh))
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
    times = on_all(lambda: blocks.times() if topology.rank() == 0 else None)
    times = broadcast_object(times, name="hvdkit.times_of_blocks")
    return blocks.cuts(times)


def _made(degrees: Degrees) -> Mesh:
    return Mesh(degrees.data, degrees.pipeline, degrees.tensor)


def _checked(model: Any, exchange: Exchange | None) -> LayerSequence:
    """The layers of a model that can be divided.

    Raises:
        ValueError: it can't be.
    """
    if exchange is not None:
        require_exchange(exchange)
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


def _chosen(model: keras.Model, sequence: LayerSequence) -> Choice:
    """The mesh that fits, for the rank that may use least."""
    local = topology.local_size()
    limits = allgather_object((rank_memory_limit(local), local), name="hvdkit.memory_limits")
    limit, local = (min(each) for each in zip(*limits, strict=True))

    def choice() -> Choice:
        everything = [(0, len(sequence.steps))]
        held = memory(sequence, everything, 0, 0)[0]
        slots = memory(sequence, everything, 0, _SLOTS)[0] - held
        activations = memory(sequence, everything, _ROWS, 0)[0] - held
        divisible = 0.0
        if held + slots + activations > limit and local > 1:
            roles = find_roles(model, sequence, local, {}).layers.values()
            divisible = sum(layer.count_params() for layer, _ in roles) / model.count_params()
        job = Job(topology.size(), local, limit, topology.mpi_enabled())
        return choose(Needs(held, slots, activations, divisible), job)

    return on_all(choice)


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
