"""Choosing a mesh for a model: rank 0 asks the planner, and all ranks take what it says."""

from __future__ import annotations

import os
from typing import Any

import keras

from hvdkit.engine import broadcast_object, topology
from hvdkit.engine.elastic import is_elastic
from hvdkit.exchange.base import Exchange
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.parallel.automatic.agreed import on_all
from hvdkit.parallel.automatic.choice import Choice, choose, exchanges_for
from hvdkit.parallel.automatic.counted import counted
from hvdkit.parallel.automatic.here import cluster_here
from hvdkit.parallel.automatic.staging import has_statistics
from hvdkit.planner.cluster_file import find_cluster
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layered import LayeredModel
from hvdkit.planner.transformer import Degrees
from hvdkit.watch.activity import pause

_ROWS = 32  # of a rank, where nothing is said
_POLICIES = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


def planned(
    model: keras.Model,
    sequence: LayerSequence,
    exchange: Exchange | None,
    batch_size: int | None,
    length: int | None,
    cluster: Any,
    micro_batches: int | None,
) -> Choice:
    """The planner's mesh and exchange; every rank calls it. See `parallelize` for the arguments.

    Raises:
        ValueError, HvdkitError: on every rank: the model can't be planned, the cluster is not
            known, or nothing fits.
    """
    ranks = topology.size()
    if ranks == 1:
        return Choice(Degrees(), reason="there is one rank")
    name = broadcast_object(
        str(cluster if cluster is not None else os.environ.get("HVDKIT_CLUSTER", "")),
        name="hvdkit.cluster",
    )
    here = None if name else cluster_here()

    def choice() -> Choice | None:
        if topology.rank() != 0:
            return None
        job = PlannedJob(batch_size or _ROWS * ranks, _precision(model))
        known = find_cluster(name).with_ranks(ranks) if here is None else here
        with pause("planning a mesh"):
            counts = _counted(model, sequence, length, micro_batches)
            return choose(counts, known, job, _exchanges(exchange))

    chosen: Choice = broadcast_object(on_all(choice), name="hvdkit.choice")
    return chosen


def _counted(
    model: keras.Model, sequence: LayerSequence, length: int | None, micro_batches: int | None
) -> LayeredModel:
    degrees = [n for n in range(1, topology.size() + 1) if topology.size() % n == 0]
    count = 1 if micro_batches is None and has_statistics(model) else micro_batches
    return counted(model, sequence, degrees, length, topology.mpi_enabled(), count)


def _exchanges(given: Exchange | None) -> list[Any]:
    found = exchanges_for(given)
    return found[:1] if is_elastic() else found


def _precision(model: keras.Model) -> str:
    """The policy of most that is computed: one of 16 bits where a layer has it."""
    names = [layer.dtype_policy.name for layer in model._flatten_layers()]
    return next((name for name in names if name in _POLICIES), "float32")
