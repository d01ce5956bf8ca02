"""hvdkit: train Keras 3 models on several devices, with Horovod.

A script written for Horovod changes one import:

    import hvdkit as hvd        # was: import horovod.tensorflow.keras as hvd
"""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["hvdkit"]:
    # `python -m hvdkit` is the command, which works before TensorFlow and Horovod are there.
    from hvdkit_cli.main import main

    sys.argv[0] = "hvdkit"
    main()
    sys.exit()

# TensorFlow's start-up log, before it is loaded; its warnings and errors stay.
if os.environ.get("HVDKIT_LOG_LEVEL", "").upper() != "DEBUG":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

from hvdkit.engine.versions import require_tensorflow

require_tensorflow()

from hvdkit import callbacks, checkpoint, elastic, parallel  # noqa: E402  (only after the check)
from hvdkit.collectives import (  # noqa: E402
    allgather,
    allreduce,
    alltoall,
    broadcast,
    grouped_allgather,
    grouped_allreduce,
    grouped_reducescatter,
    reducescatter,
)
from hvdkit.data.shard import shard  # noqa: E402
from hvdkit.data.sharded import ShardedData  # noqa: E402
from hvdkit.engine import (  # noqa: E402
    Adasum,
    Average,
    CollectiveError,
    HvdkitError,
    InstallationError,
    Max,
    Min,
    NonfiniteGradientError,
    NotInitializedError,
    ProcessSet,
    Product,
    RankMismatchError,
    Sum,
    allgather_object,
    broadcast_object,
    broadcast_object_fn,
    global_process_set,
    init,
    is_initialized,
    log_to_stderr,
    shutdown,
    start_timeline,
    stop_timeline,
)
from hvdkit.engine.ops import barrier, join  # noqa: E402
from hvdkit.engine.topology import (  # noqa: E402
    add_process_set,
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
    remove_process_set,
    rocm_built,
    size,
    size_op,
)
from hvdkit.exchange.compression.casts import Compression  # noqa: E402
from hvdkit.horovod_modules import install as _install_horovod_modules  # noqa: E402
from hvdkit.launch import FunctionError, run  # noqa: E402
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization  # noqa: E402
from hvdkit.mesh.mesh import Mesh, set_mesh  # noqa: E402
from hvdkit.optimizers import nonfinite_policy as nonfinite  # noqa: E402  (only after the check)
from hvdkit.optimizers.distributed import DistributedOptimizer  # noqa: E402
from hvdkit.optimizers.partial import PartialDistributedOptimizer  # noqa: E402
from hvdkit.optimizers.tape import (  # noqa: E402
    DistributedGradientTape,
    PartialDistributedGradientTape,
)
from hvdkit.parallel.devices.strategy import strategy  # noqa: E402
from hvdkit.randomness import set_random_seed  # noqa: E402
from hvdkit.state.broadcast import (  # noqa: E402
    broadcast_,
    broadcast_global_variables,
    broadcast_layers,
    broadcast_variables,
)
from hvdkit.training.load_model import load_model  # noqa: E402
from hvdkit.training.trainer import install as _install_hooks  # noqa: E402
from hvdkit.watch import pause  # noqa: E402

__version__ = "0.2.0.dev0"

_install_hooks()
log_to_stderr()

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
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "elastic",
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
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "nonfinite",
    "parallel",
    "pause",
    "process_set_included_op",
    "rank",
    "rank_op",
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
    "start_timeline",
    "stop_timeline",
    "strategy",
]

globals().update(_install_horovod_modules({name: globals()[name] for name in __all__}))


def __dir__() -> list[str]:
    """The public names; `hvdkit.engine` and the like can be reached, but are nobody's to use."""
    return sorted([*__all__, "__version__"])
