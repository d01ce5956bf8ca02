"""Metrics, which the last stage updates and all stages show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.keras_internals import compute_output_spec


def build_metrics(model: Any, outputs: Any, targets: Any, sample_weight: Any) -> None:
    """Make the variables of a compiled model's metrics, as its first step would.

    Args:
        model: the model.
        outputs: what stands for the outputs of a batch (`keras.KerasTensor`).
        targets: y of a batch.
        sample_weight: its sample weights, or None.
    """
    loss, metrics = model._compile_loss, model._compile_metrics
    if targets is None:
        return
    y, weights = keras.tree.map_structure(_symbolic, (targets, sample_weight))
    if metrics is not None and not metrics.built:
        compute_output_spec(metrics.update_state, y, outputs, weights)
    if loss is not None and not loss.built:
        compute_output_spec(loss, y, outputs, weights)


def share_states(variables: Sequence[Any], messages: PointToPoint, root: int) -> None:
    """Give the metrics of all stages the state of those of stage `root`, in one message.

    Args:
        variables: the metrics' variables, in the same order on all stages.
        messages: the stages.
        root: the stage whose state counts.
    """
    if messages.size == 1 or not variables:
        return
    values = [np.asarray(variable.numpy()) for variable in variables]
    packed = np.concatenate([value.reshape(-1).view(np.uint8) for value in values])
    messages.broadcast([packed], root)
    if messages.index == root:
        return
    ends = np.cumsum([value.nbytes for value in values])
    for variable, value, data in zip(variables, values, np.split(packed, ends[:-1]), strict=True):
        variable.assign(data.view(value.dtype).reshape(value.shape))


def _symbolic(tensor: Any) -> Any:
    if tensor is None:
        return None
    return keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))
