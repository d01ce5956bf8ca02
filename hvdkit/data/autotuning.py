"""Data that is not from `hvd.shard` and that Keras makes a dataset of: arrays and PyDatasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvdkit.data.source import without_autotuning
from hvdkit.engine import several_ranks
from hvdkit.keras_internals import ArrayDataAdapter, GeneratorDataAdapter, PyDatasetAdapter


def get_tf_dataset(original: Callable[..., Any], adapter: Any) -> Any:
    """Leave autotuning out where there are several ranks."""
    dataset = original(adapter)
    return without_autotuning(dataset) if several_ranks() else dataset


HOOKS = tuple(
    (adapter, "get_tf_dataset", get_tf_dataset)
    for adapter in (ArrayDataAdapter, GeneratorDataAdapter, PyDatasetAdapter)
)
"""Of which class which method is replaced by which function here."""
