"""The names of Keras that hvdkit uses past its public API; run as a script, it looks for each.

This is the one list of them. What hvdkit imports from `keras.src` has to be in it, which the
script checks as well.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# By module: names, and of classes the attributes that are used, overridden or replaced.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "keras.src.api_export": {"get_name_from_symbol": (), "REGISTERED_OBJS_TO_NAMES": ()},
    "keras.src.backend": {
        "compute_output_spec": (),
        "get_keras_mask": (),
        "set_keras_mask": (),
    },
    "keras.src.backend.common": {"global_state": ("get_global_attribute", "set_global_attribute")},
    "keras.src.backend.common.masking": {"get_keras_mask": (), "set_keras_mask": ()},
    "keras.src.backend.tensorflow.trainer": {
        "TensorFlowTrainer": (
            "_get_metrics_result_or_logs",
            "_make_function",
            "_symbolic_build",
            "evaluate",
            "fit",
            "make_predict_function",
            "make_test_function",
            "make_train_function",
            "predict",
            "train_step",
        ),
        "TFEpochIterator": ("_enumerate_iterator",),
    },
    "keras.src.layers.preprocessing.index_lookup": {"IndexLookup": ("finalize_state",)},
    "keras.src.legacy.saving": {"legacy_h5_format": ("save_model_to_hdf5",)},
    "keras.src.models.functional": {"Functional": (), "functional_like_constructor": ()},
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
    "keras.src.trainers.data_adapters.data_adapter": {"DataAdapter": ("num_batches",)},
    "keras.src.trainers.data_adapters.data_adapter_utils": {
        "is_scipy_sparse": (),
        "unpack_x_y_sample_weight": (),
    },
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
    "keras.src.utils": {"file_utils": ("is_remote_path",)},
    "keras.layers": {
        "BatchNormalization": ("_moments",),
        "Layer": ("_flatten_layers", "_get_own_losses"),
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


def not_listed() -> list[str]:
    """What hvdkit takes from `keras.src` and the list above does not have."""
    taken = set()
    for file in sorted((ROOT / "hvdkit").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
                taken |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Attribute):
                path = _dotted(node)
                if path.startswith("keras.src."):
                    taken.add(tuple(path.rsplit(".", 1)))
    modules = {name.rpartition(".") for name in NAMES}
    listed = {(module, name) for module, names in NAMES.items() for name in names}
    listed |= {(parent, child) for parent, _, child in modules}
    # keras.src.a.b.c holds the shorter keras.src.a.b, which is a module.
    parents = {".".join(n.split(".")[:i]) for n in NAMES for i in range(2, n.count(".") + 2)}
    return [
        f"{module}.{name}"
        for module, name in sorted(taken - listed)
        if f"{module}.{name}" not in parents
    ]


def _get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


if __name__ == "__main__":
    import keras

    problems = [f"Keras {keras.__version__} has no {name}" for name in missing()]
    problems += [f"{name} is not in the list of this file" for name in not_listed()]
    raise SystemExit("\n".join(problems) or 0)
