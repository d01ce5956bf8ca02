"""The answer to a request: JSON, with binary tensors behind it where they were asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.responses import JSONResponse

from hvdkit.serving import binary_tensors, json_tensors
from hvdkit.serving.datatypes import datatype_of
from hvdkit.serving.requests import InferenceRequest

JSON_SIZE = "Inference-Header-Content-Length"


class Json(JSONResponse):
    """JSON in ASCII: names of files, and errors that quote inputs, need not be text in UTF-8."""

    def render(self, content: Any) -> bytes:
        """See `starlette.responses.Response`."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def encode(
    request: InferenceRequest, model: str, version: int, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """Write an answer.

    Args:
        request: what was asked for.
        model: which model was run.
        version: and which of its versions.
        outputs: what it gave, all of it.

    Returns:
        The body, and headers that say what it is.

    Raises:
        Problem: JSON can't carry an output (406).
    """
    described, binary = [], []
    for name, as_bytes in request.outputs.items():
        array = outputs[name]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if as_bytes:
            data = binary_tensors.to_bytes(array)
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor["data"] = json_tensors.to_list(name, array)
        described.append(tensor)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id:
        answer["id"] = request.id
    text = json.dumps({**answer, "outputs": described}, separators=(",", ":")).encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", JSON_SIZE: str(len(text))}
    return b"".join([text, *binary]), headers
