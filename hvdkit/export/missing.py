"""What an exporter or a runtime says of operations that it does not have, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

# MLIR's places: fused["MatMul:", "model/dense/MatMul@__inference_function_1"]
_OF_LITERT = re.compile(r'fused\["(\w+):", "([^"@]+)')
# ONNX Runtime's: In Node, ("model/dense/Gelu/Erfc", Erfc, "", -1)
_OF_ONNX = re.compile(r'In Node, \("([^"]*)", (\w+),')
_CALLS = ("StatefulPartitionedCall", "PartitionedCall")


def missing_operation(error: BaseException) -> str | None:
    """The operation that an error is about, and where it is; None if it is about none."""
    for text in _texts(error):
        for name, where in _OF_LITERT.findall(text):
            if name not in _CALLS:
                return f"the operation {name} (in {where})"
        if found := _OF_ONNX.search(text):
            return f"the operation {found[2]} (in {found[1]})"
    return None


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__
