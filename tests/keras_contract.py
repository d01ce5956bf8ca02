"""The names of Keras that hvdkit uses past its public API; run as a script, it looks for each.

This is the one list of them: what `hvdkit/keras_internals.py` imports has to be in it, with what
hvdkit relies on of it, and no other file of hvdkit reaches into `keras.src`. The script checks
both.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INTERNALS = ROOT / "hvdkit" / "keras_internals.py"

# By module: names, and of classes the attributes that are used, overridden or replaced.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "keras.src.api_export": {"get_name_from_symbol": (), "REGISTERED_OBJS_TO_NAMES": ()},
    "keras.src.backend": {"compute_output_spec": ()},
    "keras.src.backend.common": {"global_state": ("get_global_attribute", "set_global_attribute")},
    "keras.src.backend.common.masking": {"get_keras_mask": (), "set_keras_mask": ()},
    "keras.src.backend.tensorflow.trainer": {
        "TensorFlowTrainer": (
            "_get_metrics_result_or_logs",
            "_make_function",
            "_maybe_symbolic_build",
            "_symbolic_build",
            "evaluate",
            "fit",
            "make_predict_function",
            "make_test_function",
            "make_train_function",
            "predict",
            "train_step",
        ),
        "TFEpochIterator": ("_enumerate_iterator", "_interrupted_warning"),
    },
    "keras.src.layers.preprocessing.index_lookup": {"IndexLookup": ("finalize_state",)},
    "keras.src.legacy.saving": {"legacy_h5_format": ("save_model_to_hdf5",)},
    "keras.src.models.functional": {
        "Functional": ("call", "get_config"),
        "functional_like_constructor": (),
    },
    "keras.src.random.seed_generator": {
        "GLOBAL_SEED_GENERATOR": (),
        "make_default_seed": (),
    },
    "keras.src.saving.object_registration": {
        "GLOBAL_CUSTOM_NAMES": (),
        "get_registered_name": (),
    },
    "keras.src.saving": {"saving_lib": ("save_model", "save_weights_only")},
    "keras.src.saving.serialization_lib": {"SafeModeScope": ()},
    "keras.src.trainers.data_adapters.array_data_adapter": {
        "ArrayDataAdapter": ("get_tf_dataset",)
    },
    "keras.src.trainers.data_adapters.data_adapter": {
        "DataAdapter": (
            "batch_size",
            "get_numpy_iterator",
            "get_tf_dataset",
            "has_partial_batch",
            "num_batches",
            "on_epoch_begin",
            "on_epoch_end",
            "partial_batch_size",
        )
    },
    "keras.src.trainers.data_adapters.data_adapter_utils": {"is_scipy_sparse": ()},
    "keras.src.trainers.data_adapters.generator_data_adapter": {
        "GeneratorDataAdapter": ("get_tf_dataset",)
    },
    "keras.src.trainers.data_adapters.py_dataset_adapter": {
        "PyDatasetAdapter": ("get_tf_dataset",)
    },
    "keras.src.trainers.data_adapters.tf_dataset_adapter": {
        "TFDatasetAdapter": (),
        "make_class_weight_map_fn": (),
    },
    "keras.src.utils.file_utils": {"is_remote_path": ()},
    "keras.layers": {
        "BatchNormalization": ("_moments",),
        "Layer": ("_flatten_layers", "_get_own_losses", "_track_variable"),
        "MultiHeadAttention": ("_make_output_dense",),
    },
    "keras.optimizers": {
        "Adafactor": ("build",),
        "LossScaleOptimizer": ("apply", "check_finite", "scale_loss"),
        "Optimizer": (
            "_all_reduce_sum_gradients",
            "_apply_weight_decay",
            "_backend_apply_gradients",
            "_backend_update_step",
            "_clip_gradients",
            "_overwrite_model_variables_with_average_value",
            "_overwrite_variable_with_gradient",
            "_overwrite_variables_directly_with_gradients",
            "_update_model_variables_moving_average",
            "add_variable_from_reference",
            "apply",
            "load_own_variables",
            "save_own_variables",
            "scale_loss",
        ),
    },
    "keras.random": {"SeedGenerator": ()},
}

# What hvdkit calls, or is called with in its place, and the parameters without a default.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "keras.src.backend.compute_output_spec": ("fn",),
    "keras.src.backend.common.global_state.get_global_attribute": ("name",),
    "keras.src.backend.common.global_state.set_global_attribute": ("name", "value"),
    "keras.src.backend.common.masking.get_keras_mask": ("x",),
    "keras.src.backend.common.masking.set_keras_mask": ("x", "mask"),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer._get_metrics_result_or_logs": (
        "self",
        "logs",
    ),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer._make_function": (
        "self",
        "step_function",
    ),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer.evaluate": ("self",),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer.fit": ("self",),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer.predict": ("self", "x"),
    "keras.src.backend.tensorflow.trainer.TFEpochIterator._enumerate_iterator": ("self",),
    "keras.src.backend.tensorflow.trainer.TFEpochIterator._interrupted_warning": ("self",),
    "keras.layers.Layer._track_variable": ("self", "variable"),
    "keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5": ("model", "filepath"),
    "keras.src.models.functional.functional_like_constructor": ("cls",),
    "keras.optimizers.Optimizer._all_reduce_sum_gradients": (
        "self",
        "grads_and_vars",
    ),
    "keras.optimizers.Optimizer.add_variable_from_reference": (
        "self",
        "reference_variable",
    ),
    "keras.optimizers.Optimizer.apply": ("self", "grads"),
    "keras.optimizers.Optimizer.load_own_variables": ("self", "store"),
    "keras.optimizers.Optimizer.save_own_variables": ("self", "store"),
    "keras.optimizers.LossScaleOptimizer.check_finite": ("self", "grads"),
    "keras.optimizers.LossScaleOptimizer.scale_loss": ("self", "loss"),
    "keras.src.random.seed_generator.make_default_seed": (),
    "keras.src.saving.object_registration.get_registered_name": ("obj",),
    "keras.src.saving.saving_lib.save_model": ("model", "filepath"),
    "keras.src.saving.saving_lib.save_weights_only": ("model", "filepath"),
    "keras.src.trainers.data_adapters.data_adapter_utils.is_scipy_sparse": ("x",),
    "keras.src.trainers.data_adapters.tf_dataset_adapter.make_class_weight_map_fn": (
        "class_weight",
    ),
    "keras.src.utils.file_utils.is_remote_path": ("filepath",),
}

# Attributes of what `fit` reads its data through.
EPOCH_ITERATOR = (
    "_distribute_strategy",
    "_distributed_dataset",
    "_num_batches",
    "_steps_seen",
    "data_adapter",
    "steps_per_epoch",
    "steps_per_execution",
)


def missing() -> list[str]:
    """The names that the installed Keras does not have."""
    found = []
    for module, names in NAMES.items():
        for name, attributes in names.items():
            try:
                value = _get(module, name)
            except (ImportError, AttributeError):
                found.append(f"{module}.{name}")
                continue
            found += [f"{module}.{name}.{a}" for a in attributes if not hasattr(value, a)]
    return found


def other_parameters() -> list[str]:
    """Functions that take other parameters than hvdkit gives them."""
    found = []
    for path, expected in PARAMETERS.items():
        parameters = inspect.signature(_reached(path)).parameters.values()
        required = tuple(
            p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        )
        if required != expected:
            found.append(f"{path} takes {required}, not {expected}")
    return found


def missing_in_iterators() -> list[str]:
    """Attributes that Keras's epoch iterator does not have once it is made."""
    import numpy as np
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    strategy = tf.distribute.get_strategy()
    iterator = TFEpochIterator(x=np.zeros((4, 1)), batch_size=2, distribute_strategy=strategy)
    found = [f"TFEpochIterator().{name}" for name in EPOCH_ITERATOR if not hasattr(iterator, name)]
    steps = [(first, last) for first, last, _ in iterator._enumerate_iterator()]
    return found if steps == [(0, 0), (1, 1)] else [*found, f"steps (0, 0), (1, 1), but {steps}"]


def missing_of_calls() -> list[str]:
    """What is kept under `CALL_CONTEXT`: one object for the outermost call, with attributes."""
    import keras

    from hvdkit.keras_internals import CALL_CONTEXT, global_attribute

    seen: list[Any] = []

    class Inner(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            seen.append(global_attribute(CALL_CONTEXT))
            return x

    class Outer(Inner):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def call(self, x: Any) -> Any:
            return self.inner(super().call(x))

    outer = Outer()
    for _ in range(3):  # the first call builds
        outer(keras.ops.ones((1, 1)))
    first, inside, second, _ = seen[-4:]
    alike = first is inside is not None and hasattr(first, "__dict__")
    ended = first is not second and global_attribute(CALL_CONTEXT) is None
    return [] if alike and ended else [f"{CALL_CONTEXT} for each outermost call of a layer"]


def not_listed() -> list[str]:
    """What hvdkit takes from `keras.src` and the list above does not have."""
    taken = set(_taken(INTERNALS))
    modules = {name.rpartition(".") for name in NAMES}
    listed = {(module, name) for module, names in NAMES.items() for name in names}
    listed |= {(parent, child) for parent, _, child in modules}
    return [f"{module}.{name}" for module, name in sorted(taken - listed)]


def elsewhere() -> list[str]:
    """Files of hvdkit that reach into `keras.src`, which one only may."""
    files = sorted((ROOT / "hvdkit").rglob("*.py"))
    return [
        str(file.relative_to(ROOT))
        for file in files
        if file != INTERNALS and "keras.src" in file.read_text()
    ]


def _taken(file: Path) -> Iterator[tuple[str, str]]:
    """Modules of Keras and the names that a file imports of them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _reached(path: str) -> Any:
    """What is at a path through modules and classes."""
    package, *names = path.split(".")
    value: Any = importlib.import_module(package)
    for name in names:
        value = getattr(value, name)
    return value


def _get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    import keras

    problems = [f"Keras {keras.__version__} has no {name}" for name in missing()]
    problems = problems or other_parameters()
    problems += [f"Keras {keras.__version__} has no {name}" for name in missing_in_iterators()]
    problems += [f"Keras {keras.__version__} has no {name}" for name in missing_of_calls()]
    problems += [f"{name} is not in the list of this file" for name in not_listed()]
    problems += [f"{name}: only hvdkit/keras_internals.py takes keras.src" for name in elsewhere()]
    raise SystemExit("\n".join(problems) or 0)
