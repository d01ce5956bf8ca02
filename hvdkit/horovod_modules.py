"""The modules that `horovod.tensorflow` consists of, as scripts import them: `hvdkit.mpi_ops`, ...

They hold what scripts take from them, and it is hvdkit's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hvdkit import lazy

_OF_FUNCTIONS = "allgather_object broadcast_object broadcast_object_fn"
_NOT_OF_MPI_OPS = (
    "Compression DistributedGradientTape DistributedOptimizer SyncBatchNormalization "
    f"broadcast_variables load_model {_OF_FUNCTIONS} "
    "callbacks checkpoint elastic exchange monitoring nonfinite parallel ray spark"  # modules
).split()


def vars_to_refs(variables: Any) -> Any:
    """References to variables, which can be keys of dictionaries, in the same structure."""
    import keras

    if isinstance(variables, (list, tuple)):
        return tuple(vars_to_refs(variable) for variable in variables)
    return (variables.value if isinstance(variables, keras.Variable) else variables).ref()


def refs_to_vars(references: Any) -> Any:
    """The `tf.Variable`s behind references."""
    if isinstance(references, tuple):
        return [refs_to_vars(reference) for reference in references]
    return references.deref()


def _executing_eagerly() -> bool:
    import tensorflow as tf

    return bool(tf.executing_eagerly())


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


def install(public: Sequence[str]) -> dict[str, ModuleType]:
    """Make the modules, so that `import hvdkit.mpi_ops` and `hvd.mpi_ops` find them.

    Args:
        public: hvdkit's public names.

    Returns:
        The modules by name.
    """
    homes: dict[str, lazy.Homes] = {
        "mpi_ops": {"hvdkit": " ".join(name for name in public if name not in _NOT_OF_MPI_OPS)},
        "functions": {"hvdkit": f"{_OF_FUNCTIONS} broadcast_variables"},
        "compression": {
            "hvdkit.exchange.compression.casts": (
                "Compression Compressor NoneCompressor FP16Compressor"
            )
        },
        "sync_batch_norm": {"hvdkit": "SyncBatchNormalization"},
        "util": {__name__: "vars_to_refs refs_to_vars _executing_eagerly"},
        "gradient_aggregation": {__name__: "LocalGradientAggregationHelper"},
    }
    return {name: _module(name, members) for name, members in homes.items()}


def _module(name: str, homes: lazy.Homes) -> ModuleType:
    full_name = f"hvdkit.{name}"
    module = ModuleType(full_name, f"What scripts take from horovod.tensorflow.{name}.")
    names = " ".join(homes.values()).split()
    vars(module).update(
        __all__=[member for member in names if not member.startswith("_")],
        __dir__=lambda: sorted({*vars(module), *names}),
        __getattr__=lazy.lazy_names(full_name, training=homes),
    )
    sys.modules[full_name] = module
    return module
