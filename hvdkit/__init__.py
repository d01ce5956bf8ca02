"""hvdkit: train Keras 3 models on several devices, with Horovod.

A script written for Horovod changes one import:

    import hvdkit as hvd        # was: import horovod.tensorflow.keras as hvd
"""

import importlib
import os
from typing import TYPE_CHECKING

from hvdkit import horovod_modules, lazy, patches

# TensorFlow's start-up log, before it is loaded; its warnings and errors stay.
if os.environ.get("HVDKIT_LOG_LEVEL", "").upper() != "DEBUG":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

if TYPE_CHECKING:
    from hvdkit import (
        callbacks,
        checkpoint,
        compress,
        elastic,
        exchange,
        export,
        monitoring,
        nonfinite,
        parallel,
        ray,
        spark,
    )
    from hvdkit.callbacks.trace import trace
    from hvdkit.collectives import (
        allgather,
        allreduce,
        alltoall,
        broadcast,
        grouped_allgather,
        grouped_allreduce,
        grouped_reducescatter,
        reducescatter,
    )
    from hvdkit.data.shard import shard
    from hvdkit.data.sharded import ShardedData
    from hvdkit.engine import (
        Adasum,
        Average,
        Max,
        Min,
        ProcessSet,
        Product,
        Sum,
        allgather_object,
        broadcast_object,
        broadcast_object_fn,
        global_process_set,
        init,
        is_initialized,
        shutdown,
        start_timeline,
        stop_timeline,
    )
    from hvdkit.engine.ops import barrier, join
    from hvdkit.engine.process_sets import add_process_set, remove_process_set
    from hvdkit.engine.topology import (
        ccl_built,
        cross_rank,
        cross_size,
        cuda_built,
        ddl_built,
        gloo_built,
        gloo_enabled,
        is_homogeneous,
        local_rank,
        local_rank_op,
        local_size,
        local_size_op,
        mpi_built,
        mpi_enabled,
        mpi_threads_supported,
        nccl_built,
        process_set_included_op,
        rank,
        rank_op,
        rocm_built,
        size,
        size_op,
    )
    from hvdkit.errors import (
        CollectiveError,
        FunctionError,
        HvdkitError,
        InstallationError,
        NonfiniteGradientError,
        NotInitializedError,
        RankMismatchError,
    )
    from hvdkit.exchange.compression.casts import Compression
    from hvdkit.export.export_model import export_model
    from hvdkit.launch import run
    from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
    from hvdkit.mesh.mesh import Mesh, set_mesh
    from hvdkit.optimizers.distributed import (
        DistributedGradientTape,
        DistributedOptimizer,
        PartialDistributedGradientTape,
        PartialDistributedOptimizer,
    )
    from hvdkit.parallel.automatic.parallelize import parallelize
    from hvdkit.parallel.devices.strategy import strategy
    from hvdkit.randomness import set_random_seed
    from hvdkit.state.broadcast import (
        broadcast_,
        broadcast_global_variables,
        broadcast_layers,
        broadcast_variables,
    )
    from hvdkit.training.load_model import load_model
    from hvdkit.watch.activity import pause
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={
            "hvdkit.callbacks": "",
            "hvdkit.checkpoint": "",
            "hvdkit.compress": "",
            "hvdkit.elastic": "",
            "hvdkit.export": "",
            "hvdkit.monitoring": "",
            "hvdkit.parallel": "",
            "hvdkit.ray": "",
            "hvdkit.spark": "",
            "hvdkit.errors": (
                "CollectiveError FunctionError HvdkitError InstallationError "
                "NonfiniteGradientError NotInitializedError RankMismatchError"
            ),
        },
        training={
            "hvdkit.exchange": "",
            "hvdkit.nonfinite": "",
            "hvdkit.callbacks.trace": "trace",
            "hvdkit.collectives": (
                "allgather allreduce alltoall broadcast grouped_allgather grouped_allreduce "
                "grouped_reducescatter reducescatter"
            ),
            "hvdkit.data.shard": "shard",
            "hvdkit.data.sharded": "ShardedData",
            "hvdkit.engine": (
                "Adasum Average Max Min ProcessSet Product Sum allgather_object broadcast_object "
                "broadcast_object_fn global_process_set init is_initialized shutdown "
                "start_timeline stop_timeline"
            ),
            "hvdkit.engine.ops": "barrier join",
            "hvdkit.engine.process_sets": "add_process_set remove_process_set",
            "hvdkit.engine.topology": (
                "ccl_built cross_rank cross_size cuda_built ddl_built gloo_built gloo_enabled "
                "is_homogeneous local_rank local_rank_op local_size local_size_op mpi_built "
                "mpi_enabled mpi_threads_supported nccl_built process_set_included_op rank "
                "rank_op rocm_built size size_op"
            ),
            "hvdkit.exchange.compression.casts": "Compression",
            "hvdkit.export.export_model": "export_model",
            "hvdkit.launch": "run",
            "hvdkit.layers.sync_batch_normalization": "SyncBatchNormalization",
            "hvdkit.mesh.mesh": "Mesh set_mesh",
            "hvdkit.optimizers.distributed": (
                "DistributedGradientTape DistributedOptimizer PartialDistributedGradientTape "
                "PartialDistributedOptimizer"
            ),
            "hvdkit.parallel.automatic.parallelize": "parallelize",
            "hvdkit.parallel.devices.strategy": "strategy",
            "hvdkit.randomness": "set_random_seed",
            "hvdkit.state.broadcast": (
                "broadcast_ broadcast_global_variables broadcast_layers broadcast_variables"
            ),
            "hvdkit.training.load_model": "load_model",
            "hvdkit.watch.activity": "pause",
        },
    )

__version__ = "0.2.0.dev0"

__all__ = [
    "Adasum",
    "Average",
    "CollectiveError",
    "Compression",
    "DistributedGradientTape",
    "DistributedOptimizer",
    "FunctionError",
    "HvdkitError",
    "InstallationError",
    "Max",
    "Mesh",
    "Min",
    "NonfiniteGradientError",
    "NotInitializedError",
    "PartialDistributedGradientTape",
    "PartialDistributedOptimizer",
    "ProcessSet",
    "Product",
    "RankMismatchError",
    "ShardedData",
    "Sum",
    "SyncBatchNormalization",
    "add_process_set",
    "allgather",
    "allgather_object",
    "allreduce",
    "alltoall",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_global_variables",
    "broadcast_layers",
    "broadcast_object",
    "broadcast_object_fn",
    "broadcast_variables",
    "callbacks",
    "ccl_built",
    "checkpoint",
    "compress",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "elastic",
    "exchange",
    "export",
    "export_model",
    "global_process_set",
    "gloo_built",
    "gloo_enabled",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_reducescatter",
    "init",
    "is_homogeneous",
    "is_initialized",
    "join",
    "load_model",
    "local_rank",
    "local_rank_op",
    "local_size",
    "local_size_op",
    "monitoring",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "nonfinite",
    "parallel",
    "parallelize",
    "pause",
    "process_set_included_op",
    "rank",
    "rank_op",
    "ray",
    "reducescatter",
    "remove_process_set",
    "rocm_built",
    "run",
    "set_mesh",
    "set_random_seed",
    "shard",
    "shutdown",
    "size",
    "size_op",
    "spark",
    "start_timeline",
    "stop_timeline",
    "strategy",
    "trace",
]

globals().update(horovod_modules.install(__all__))


def __dir__() -> list[str]:
    """The public names; `hvdkit.engine` and the like can be reached, but are nobody's to use."""
    return sorted([*__all__, "__version__"])


def _prepare() -> None:
    """Before the first name that trains: say what is missing, and let Keras find the layers."""
    from hvdkit import engine, parallel

    engine.log_to_stderr()
    # In a file Keras finds layers by their names, which it knows when they are loaded.
    importlib.import_module("hvdkit.layers.sync_batch_normalization")
    for name in parallel.__all__:
        getattr(parallel, name)


def _patch_fit() -> None:
    from hvdkit.training.trainer import install

    install()


lazy.prepare_with(_prepare)
patches.offer(patches.FIT, _patch_fit)
