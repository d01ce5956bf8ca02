"""The protocol's names of types, and NumPy's.

Source: Open Inference Protocol, "Tensor Data Types"
(https://github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import numpy as np

from hvdkit.export.runtimes import TensorSpec

TEXT = "BYTES"

_NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "str": TEXT,
}
_DTYPES = {name: np.dtype("O" if name == TEXT else dtype) for dtype, name in _NAMES.items()}


def datatype(dtype: str) -> str:
    """The protocol's name of a `TensorSpec`'s type.

    Raises:
        ValueError: the protocol, or this server, has none.
    """
    if dtype not in _NAMES:
        raise ValueError(f"tensors of {dtype} can't be served, only {', '.join(_NAMES)}.")
    return _NAMES[dtype]


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's type for one of the protocol's; `object`, for bytes, for text."""
    return _DTYPES[name]


def datatype_of(array: np.ndarray) -> str:
    """The protocol's name of an array's type; object arrays hold text."""
    return TEXT if array.dtype == object else datatype(array.dtype.name)


def described(spec: TensorSpec) -> dict[str, object]:
    """A tensor in a model's metadata; -1 for a size that may vary."""
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": shape}
