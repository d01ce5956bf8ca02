"""The collective engine: everything that talks to Horovod, and nothing about Keras."""

from hvdkit.engine.versions import require_tensorflow

require_tensorflow()

# ruff: noqa: E402  (only after the check)
from hvdkit.engine import ops, topology
from hvdkit.engine.error_messages import explained_in_graph
from hvdkit.engine.native import (
    OP_NAMES,
    Adasum,
    Average,
    Max,
    Min,
    ProcessSet,
    Product,
    Sum,
    global_process_set,
    require_initialized,
)
from hvdkit.engine.objects import (
    allgather_object,
    broadcast_object,
    broadcast_object_fn,
    raise_everywhere,
    require_same,
)
from hvdkit.engine.startup import (
    init,
    is_initialized,
    log_to_stderr,
    logger,
    several_ranks,
    shutdown,
)
from hvdkit.engine.timeline import start_timeline, stop_timeline
from hvdkit.errors import (
    CollectiveError,
    HvdkitError,
    InstallationError,
    NonfiniteGradientError,
    NotInitializedError,
    RankMismatchError,
)

__all__ = [
    "OP_NAMES",
    "Adasum",
    "Average",
    "CollectiveError",
    "HvdkitError",
    "InstallationError",
    "Max",
    "Min",
    "NonfiniteGradientError",
    "NotInitializedError",
    "ProcessSet",
    "Product",
    "RankMismatchError",
    "Sum",
    "allgather_object",
    "broadcast_object",
    "broadcast_object_fn",
    "explained_in_graph",
    "global_process_set",
    "init",
    "is_initialized",
    "log_to_stderr",
    "logger",
    "ops",
    "raise_everywhere",
    "require_initialized",
    "require_same",
    "several_ranks",
    "shutdown",
    "start_timeline",
    "stop_timeline",
    "topology",
]
