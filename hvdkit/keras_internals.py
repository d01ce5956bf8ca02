"""What hvdkit takes from inside of Keras: no other file of it reaches into `keras.src`.

`tests/keras_contract.py` holds what is relied on of each name, against the installed Keras.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src import api_export
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.legacy.saving import legacy_h5_format
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, make_default_seed
from keras.src.saving import object_registration, saving_lib
from keras.src.saving.serialization_lib import SafeModeScope
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import is_scipy_sparse
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import (
    TFDatasetAdapter,
    make_class_weight_map_fn,
)
from keras.src.utils.file_utils import is_remote_path

__all__ = [
    "CALL_CONTEXT",
    "NAME_COUNTS",
    "STATELESS_SCOPE",
    "UNINITIALIZED_VARIABLES",
    "ArrayDataAdapter",
    "DataAdapter",
    "Functional",
    "GeneratorDataAdapter",
    "PyDatasetAdapter",
    "SafeModeScope",
    "TFDatasetAdapter",
    "TFEpochIterator",
    "TensorFlowTrainer",
    "compute_output_spec",
    "functional_like_constructor",
    "get_keras_mask",
    "global_attribute",
    "global_seed_generator",
    "has_keras_call",
    "is_keras2_optimizer",
    "is_of_keras",
    "is_remote_path",
    "is_scipy_sparse",
    "legacy_h5_format",
    "make_class_weight_map_fn",
    "make_default_seed",
    "replaced_global_attribute",
    "save_under_name_of",
    "saving_lib",
    "set_keras_mask",
]

# Names of what Keras keeps for the whole process, see `global_attribute`.
CALL_CONTEXT = "current_call_ctx"
NAME_COUNTS = "object_name_uids"
STATELESS_SCOPE = "stateless_scope"
UNINITIALIZED_VARIABLES = "uninitialized_variables"


def global_attribute(name: str) -> Any:
    """What Keras keeps for the whole process under a name; None for nothing."""
    return global_state.get_global_attribute(name)


@contextlib.contextmanager
def replaced_global_attribute(name: str, value: Any) -> Iterator[None]:
    """While inside, Keras keeps something else under a name."""
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, value)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


def global_seed_generator() -> Any:
    """What `keras.random` takes seeds from where none is given; None if it was not used yet."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def save_under_name_of(kind: type, other: type) -> None:
    """Let files name a class as another one, which they then load.

    Args:
        kind: the class.
        other: one of Keras's, or one that is registered with Keras, or neither.
    """
    public_name = api_export.get_name_from_symbol(other)
    if public_name is not None:
        api_export.REGISTERED_OBJS_TO_NAMES[kind] = public_name
    else:
        registered = object_registration.get_registered_name(other)
        object_registration.GLOBAL_CUSTOM_NAMES[kind] = registered


def is_of_keras(defined: Any, room: str = "") -> bool:
    """Whether a class or function is one of Keras's own.

    Args:
        defined: what is defined in some module.
        room: a package of Keras's, such as "models", that it has to be in.
    """
    module = getattr(defined, "__module__", None) or ""
    return module.startswith(f"keras.src.{room}")


def has_keras_call(model: keras.Model) -> bool:
    """Whether a model's `call` is that of a functional or a Sequential model."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def is_keras2_optimizer(candidate: object) -> bool:
    """Whether `candidate` comes from Keras 2 (`tf_keras`, `tf.keras` before 2.16) or TF 1."""
    for cls in type(candidate).__mro__:
        module = cls.__module__ or ""
        if module.startswith(("tf_keras", "keras.optimizers.legacy")):
            return True
        if module.startswith("tensorflow.python.") and cls.__name__ == "Optimizer":
            return True
        if module.startswith("keras.src.optimizers.legacy"):
            return True
    return False
