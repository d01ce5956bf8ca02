"""Columns of Arrow as NumPy arrays with a row for each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.errors import HvdkitError


def _no_tensors(name: str, column: Any) -> np.ndarray:
    raise HvdkitError(f"column {name!r} has the type {column.type}, which can't become an array.")


def numpy_columns(
    table: Any, tensors: Callable[[str, Any], np.ndarray] = _no_tensors
) -> dict[str, np.ndarray]:
    """Each column of a table as an array.

    Args:
        table: a `pyarrow.Table`. Columns of numbers, booleans and text become arrays (rows,);
            columns of lists of one length (rows, length), lists of such lists (rows, length, ...).
        tensors: makes an array of a column of an extension type.

    Raises:
        HvdkitError: a column holds nulls, lists of unequal lengths, or other things.
    """
    return {
        name: _array(name, column.combine_chunks(), tensors)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _array(name: str, column: Any, tensors: Callable[[str, Any], np.ndarray]) -> np.ndarray:
    import pyarrow as pa

    if column.null_count:
        raise HvdkitError(
            f"column {name!r} holds {column.null_count} nulls: fill or drop them before."
        )
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return tensors(name, column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            raise HvdkitError(
                f"column {name!r} holds lists of {lengths[0]} to {lengths[-1]} values: pad them to "
                "one length before."
            )
        flat = _array(name, column.flatten(), tensors)
        return flat.reshape(len(column), *lengths, *flat.shape[1:]) if len(column) else flat
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (numbers or text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise HvdkitError(
            f"column {name!r} has the type {kind}: make it numbers, text, or lists of numbers "
            "(decimals by a cast to double, vectors of Spark's ML by vector_to_array), or leave "
            "it out."
        )
    found: np.ndarray = column.to_numpy(zero_copy_only=False)
    return found
