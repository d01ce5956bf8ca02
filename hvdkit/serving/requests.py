"""What a client asks for, read from the body of its request and held to the model's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving import binary_tensors, json_tensors, strict_json
from hvdkit.serving.datatypes import datatype
from hvdkit.serving.problems import malformed, too_large
from hvdkit.serving.settings import Limits

_LONGEST_ID = 256
_BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks for.

    Attributes:
        id: the client's own name for the request, which the answer has, too; "" for none.
        inputs: an array for each input of the model.
        outputs: the outputs that are asked for, and whether each is to be binary.
        seconds: until the answer is of no use to the client; None: it has not said.
    """

    id: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, bool]
    seconds: float | None


def parse(
    body: bytes,
    json_size: int | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    limits: Limits,
) -> InferenceRequest:
    """Read a request.

    A parameter that is not known is refused: whoever sends one expects something of it.

    Args:
        body: all of it.
        json_size: bytes of the JSON at its beginning, where binary tensors follow; None: all.
        inputs: what the model takes.
        outputs: what it gives.
        limits: what is allowed.

    Raises:
        Problem: it is not what the protocol and the model ask for (400), or too large (413).
    """
    size = len(body) if json_size is None else json_size
    if size > len(body):
        raise malformed("Inference-Header-Content-Length is more than the length of the body.")
    asked = strict_json.loads(
        body[:size] if size < len(body) else body, nesting=limits.nesting, elements=limits.elements
    )
    _fields(asked, "the request", {"id", "parameters", "inputs", "outputs"})
    parameters = _parameters(asked, "the request", {"timeout", "binary_data_output"})
    return InferenceRequest(
        id=_id(asked.get("id", "")),
        inputs=_Inputs(memoryview(body)[size:], inputs, limits).read(asked.get("inputs")),
        outputs=_outputs(
            asked.get("outputs"), outputs, _flag(parameters, "binary_data_output", False)
        ),
        seconds=_seconds(parameters.get("timeout")),
    )


class _Inputs:
    """Reads the inputs of a request, in the order in which they come."""

    def __init__(self, binary: memoryview, specs: Sequence[TensorSpec], limits: Limits) -> None:
        self._binary = binary
        self._position = 0
        self._specs = {spec.name: spec for spec in specs}
        self._limits = limits

    def read(self, given: Any) -> dict[str, np.ndarray]:
        if not isinstance(given, list):
            raise malformed('the request has no list "inputs".')
        if len(given) > len(self._specs):
            raise malformed(f"there are {len(given)} inputs; {self._takes()}")
        found: dict[str, np.ndarray] = {}
        for each in given:
            _fields(each, "an input", {"name", "shape", "datatype", "parameters", "data"})
            spec = self._spec(each.get("name"))
            if spec.name in found:
                raise malformed(f"input {spec.name!r} is there twice.")
            found[spec.name] = self._array(each, spec)
        missing = [name for name in self._specs if name not in found]
        if missing:
            raise malformed(f"there is no input {', '.join(missing)}; {self._takes()}")
        if self._position != len(self._binary):
            raise malformed("there are bytes behind those that binary_data_size tells of.")
        return found

    def _takes(self) -> str:
        return f"the model takes {', '.join(self._specs)}."

    def _spec(self, name: Any) -> TensorSpec:
        spec = self._specs.get(name) if isinstance(name, str) else None
        if spec is None:
            raise malformed(f"an input has no name that the model knows; {self._takes()}")
        return spec

    def _array(self, given: dict[str, Any], spec: TensorSpec) -> np.ndarray:
        wanted = datatype(spec.dtype)
        if given.get("datatype") != wanted:
            raise malformed(f"input {spec.name!r} has to be {wanted}.")
        shape = self._shape(given.get("shape"), spec)
        parameters = _parameters(given, f"input {spec.name!r}", {_BINARY_SIZE})
        if _BINARY_SIZE not in parameters:
            if "data" not in given:
                raise malformed(f"input {spec.name!r} has no data.")
            return json_tensors.to_array(spec.name, given["data"], wanted, shape)
        if "data" in given:
            raise malformed(f"input {spec.name!r} has both data and {_BINARY_SIZE}.")
        size = _whole(parameters[_BINARY_SIZE], f"{_BINARY_SIZE} of input {spec.name!r}")
        data = self._binary[self._position : self._position + size]
        if len(data) < size:
            raise malformed(f"the body ends within the bytes of input {spec.name!r}.")
        self._position += size
        return binary_tensors.to_array(spec.name, data, wanted, shape)

    def _shape(self, given: Any, spec: TensorSpec) -> list[int]:
        if not isinstance(given, list):
            raise malformed(f"input {spec.name!r} has no shape.")
        if len(given) > self._limits.dimensions:
            raise too_large(
                f"input {spec.name!r} has more than {self._limits.dimensions} dimensions."
            )
        shape = [_whole(size, f"a size in the shape of input {spec.name!r}") for size in given]
        if math.prod(shape) > self._limits.elements:
            raise too_large(f"input {spec.name!r} has more than {self._limits.elements} elements.")
        fits = len(shape) == len(spec.shape) and all(
            asked in (None, size) for asked, size in zip(spec.shape, shape, strict=True)
        )
        if not fits or 0 in shape:
            sizes = ", ".join("any" if size is None else str(size) for size in spec.shape)
            raise malformed(f"input {spec.name!r} has the shape {shape}, not [{sizes}].")
        return shape


def _outputs(given: Any, specs: Sequence[TensorSpec], binary: bool) -> dict[str, bool]:
    names = [spec.name for spec in specs]
    if given is None or given == []:
        return dict.fromkeys(names, binary)
    if not isinstance(given, list) or len(given) > len(names):
        raise malformed(f'"outputs" is no list of some of {", ".join(names)}.')
    found: dict[str, bool] = {}
    for each in given:
        _fields(each, "an output", {"name", "parameters"})
        name = each.get("name")
        if name not in names or name in found:
            raise malformed(f"an output is no name, or twice; the model has {', '.join(names)}.")
        parameters = _parameters(each, f"output {name!r}", {"binary_data"})
        found[name] = _flag(parameters, "binary_data", binary)
    return found


def _fields(given: Any, what: str, known: set[str]) -> None:
    if not isinstance(given, dict):
        raise malformed(f"{what} is no JSON object.")
    unknown = given.keys() - known
    if unknown:
        raise malformed(f"{what} has fields that are not known: {_some(unknown)}.")


def _parameters(given: dict[str, Any], what: str, known: set[str]) -> dict[str, Any]:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise malformed(f"the parameters of {what} are no JSON object.")
    unknown = parameters.keys() - known
    if unknown:
        raise malformed(
            f"{what} has parameters that this server does not know: {_some(unknown)}. "
            f"It knows {', '.join(sorted(known))}."
        )
    return parameters


def _some(names: set[str]) -> str:
    return ", ".join(repr(name[:40]) for name in sorted(names)[:3])


def _id(given: Any) -> str:
    if not isinstance(given, str) or len(given) > _LONGEST_ID:
        raise malformed(f'"id" is no text of {_LONGEST_ID} characters at most.')
    return given


def _seconds(given: Any) -> float | None:
    if given is None:
        return None
    microseconds = _whole(given, 'the parameter "timeout", in microseconds')
    return microseconds / 1e6 if microseconds else None


def _whole(given: Any, what: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 2**63:
        raise malformed(f"{what} is no whole number of at least 0.")
    return given


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    given = parameters.get(name, default)
    if not isinstance(given, bool):
        raise malformed(f'the parameter "{name}" is neither true nor false.')
    return given
