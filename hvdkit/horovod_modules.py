"""The modules that `horovod.tensorflow` consists of, as scripts import them: `hvdkit.mpi_ops`, ...

They hold what scripts take from them, and it is hvdkit's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from hvdkit.exchange.compression import casts as compression

_OF_FUNCTIONS = ("allgather_object", "broadcast_object", "broadcast_object_fn")
_NOT_OF_MPI_OPS = (
    "Compression",
    "DistributedGradientTape",
    "DistributedOptimizer",
    "SyncBatchNormalization",
    "broadcast_variables",
    "load_model",
    *_OF_FUNCTIONS,
)


def vars_to_refs(variables: Any) -> Any:
    """References to variables, which can be keys of dictionaries, in the same structure."""
    if isinstance(variables, (list, tuple)):
        return tuple(vars_to_refs(variable) for variable in variables)
    return (variables.value if isinstance(variables, keras.Variable) else variables).ref()


def refs_to_vars(references: Any) -> Any:
    """The `tf.Variable`s behind references."""
    if isinstance(references, tuple):
        return [refs_to_vars(reference) for reference in references]
    return references.deref()


class LocalGradientAggregationHelper:
    """Horovod's helper that accumulates gradients; Keras's optimizers do so themselves.

    Raises:
        NotImplementedError: it says what to use.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "hvdkit accumulates gradients with Keras's own means: use "
            "hvd.DistributedOptimizer(optimizer, backward_passes_per_step=...), or the optimizer's "
            "gradient_accumulation_steps."
        )


def install(public: Mapping[str, Any]) -> dict[str, ModuleType]:
    """Make the modules, so that `import hvdkit.mpi_ops` and `hvd.mpi_ops` find them.

    Args:
        public: hvdkit's public names.

    Returns:
        The modules by name.
    """
    contents: dict[str, dict[str, Any]] = {
        "mpi_ops": {
            name: value
            for name, value in public.items()
            if name not in _NOT_OF_MPI_OPS and not isinstance(value, ModuleType)
        },
        "functions": {name: public[name] for name in (*_OF_FUNCTIONS, "broadcast_variables")},
        "compression": {
            "Compression": compression.Compression,
            "Compressor": compression.Compressor,
            "NoneCompressor": compression.NoneCompressor,
            "FP16Compressor": compression.FP16Compressor,
        },
        "sync_batch_norm": {"SyncBatchNormalization": public["SyncBatchNormalization"]},
        "util": {
            "vars_to_refs": vars_to_refs,
            "refs_to_vars": refs_to_vars,
            "_executing_eagerly": tf.executing_eagerly,
        },
        "gradient_aggregation": {"LocalGradientAggregationHelper": LocalGradientAggregationHelper},
    }
    modules = {}
    for name, members in contents.items():
        module = ModuleType(f"hvdkit.{name}", f"What scripts take from horovod.tensorflow.{name}.")
        vars(module).update(members)
        modules[name] = sys.modules[module.__name__] = module
    return modules
