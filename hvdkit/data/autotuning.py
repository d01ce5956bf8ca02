"""Data that is not from `hvd.shard` and that Keras makes a dataset of: arrays and PyDatasets."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.data.source import without_autotuning
from hvdkit.engine import is_initialized, topology
from hvdkit.keras_internals import ArrayDataAdapter, GeneratorDataAdapter, PyDatasetAdapter

_ADAPTERS = (ArrayDataAdapter, GeneratorDataAdapter, PyDatasetAdapter)


def leave_out(iterator: Any) -> None:
    """Read Keras's own datasets without autotuning where there are several ranks.

    Args:
        iterator: Keras's epoch iterator, before an epoch.
    """
    dataset = iterator._distributed_dataset
    if (
        is_initialized()
        and topology.size() > 1
        and isinstance(iterator.data_adapter, _ADAPTERS)
        and isinstance(dataset, tf.data.Dataset)
        and dataset.options().autotune.enabled is not False
    ):
        iterator._distributed_dataset = without_autotuning(dataset)
