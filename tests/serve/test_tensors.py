"""Tensors on their way: JSON, bytes, frames; and whether the rows of a model stand alone."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving import binary_tensors, frames, json_tensors, strict_json
from hvdkit.serving.first_request import first_request, rows_stand_alone
from hvdkit.serving.logs import Log
from hvdkit.serving.problems import Problem
from hvdkit.serving.repository import look

pytestmark = pytest.mark.quick


def array(data: Any, datatype: str, shape: list[int]) -> np.ndarray:
    return json_tensors.to_array("x", data, datatype, shape)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "wanted"),
    [
        ([[1, 2], [3, 4]], "FP32", [2, 2], np.array([[1, 2], [3, 4]], "float32")),
        ([1, 2, 3, 4], "INT8", [2, 2], np.array([[1, 2], [3, 4]], "int8")),
        ([[[1], [2]]], "UINT64", [1, 2, 1], np.array([[[1], [2]]], "uint64")),
        ([2**64 - 1], "UINT64", [1], np.array([2**64 - 1], "uint64")),
        ([True, False], "BOOL", [2], np.array([True, False])),
        ([1.5], "FP16", [1], np.array([1.5], "float16")),
        (["ä", ""], "BYTES", [2], np.array(["ä".encode(), b""], object)),
        ([7], "INT32", [], np.array(7, "int32")),
        ([], "FP64", [0, 3], np.zeros((0, 3))),
    ],
)
def test_lists_that_are_tensors(data: Any, datatype: str, shape: list[int], wanted: Any) -> None:
    found = array(data, datatype, shape)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    again = binary_tensors.to_array(
        "x", memoryview(binary_tensors.to_bytes(found)), datatype, shape
    )
    assert again.dtype == wanted.dtype
    np.testing.assert_array_equal(again, wanted)


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([1.5], "INT32", [1]),
        ([1.0], "INT32", [1]),
        ([True], "INT32", [1]),
        ([1, True], "FP32", [2]),
        ([256], "UINT8", [1]),
        ([-1], "UINT8", [1]),
        ([2**63], "INT64", [1]),
        ([70000], "FP16", [1]),
        ([1e39], "FP32", [1]),
        ([10**400], "FP64", [1]),
        ([1], "BOOL", [1]),
        ([1], "BYTES", [1]),
        (["\ud800"], "BYTES", [1]),
        ([None], "FP32", [1]),
        ([{}], "FP32", [1]),
        ({"0": 1}, "FP32", [1]),
        ([[1, 2], [3]], "FP32", [2, 2]),
        ([[1, 2, 3, 4]], "FP32", [2, 2]),
        ([[1], [2]], "FP32", [2]),
        ([[[1, 2]]], "FP32", [1, 2]),
        ([1, [2]], "FP32", [2]),
    ],
)
def test_lists_that_are_no_such_tensors(data: Any, datatype: str, shape: list[int]) -> None:
    with pytest.raises(Problem) as caught:
        array(data, datatype, shape)
    assert caught.value.status == 400


def test_bytes_that_are_no_such_tensors() -> None:
    for data, datatype, shape in (
        (b"123", "FP32", [1]),
        (b"\x02", "BOOL", [1]),
        (b"\x05\0\0\0abc", "BYTES", [1]),
        (b"\xff\xff\xff\xff", "BYTES", [1]),
        (b"\x01\0\0\0ab", "BYTES", [1]),
        (b"\x01\0\0", "BYTES", [1]),
        (b"", "BYTES", [10**12]),
    ):
        with pytest.raises(Problem):
            binary_tensors.to_array("x", memoryview(data), datatype, shape)


def test_json_of_strangers() -> None:
    def loads(data: bytes) -> Any:
        return strict_json.loads(data, nesting=4, elements=10)

    # What stands in texts is no nesting, and no more values.
    text = "[" * 5000 + "," * 5000 + '\\" \\\\'
    assert loads(json.dumps({"a": text}).encode()) == {"a": text}
    for data in (b"[" * 5, b"[" * 100_000, b'{"a":' * 50_000, b'["' + b'\\"' * 500_000):
        with pytest.raises(Problem):
            loads(data)
    with pytest.raises(Problem) as caught:
        loads(b"[" + b"1," * 5000 + b"1]")
    assert caught.value.status == 413


def test_frames_carry_all_types() -> None:
    ours, theirs = socket.socketpair()
    arrays = {
        "a": np.arange(6, dtype="float16").reshape(2, 3),
        "b": np.array([[b"x", "ä".encode()]], object),
        "c": np.zeros((0, 2), "int64"),
        "d": np.random.default_rng(0).normal(size=(500, 500)),  # more than a buffer
    }
    sent = frames.Frame("run", {"n": 1}, arrays)
    thread = threading.Thread(target=frames.send, args=(ours, sent))
    thread.start()
    found = frames.receive(theirs)
    thread.join()
    assert (found.kind, found.facts) == ("run", {"n": 1})
    assert list(found.arrays) == list(arrays)
    for name, each in arrays.items():
        assert found.arrays[name].dtype == each.dtype
        np.testing.assert_array_equal(found.arrays[name], each)
    ours.sendall(frames.packed(sent)[:100])
    ours.close()
    assert frames.receive(theirs) is None


SPECS = [TensorSpec("x", "float32", (None, 3))], [TensorSpec("y", "float32", (None, 3))]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: 2 * x, None),
        (lambda x: x - x.mean(0), "depends on the other rows"),
        (lambda x: x / np.abs(x).max(), "depends on the other rows"),
        (lambda x: np.random.default_rng().normal(size=x.shape), "on chance"),
        (lambda x: x[:1], "does not have a row for each row"),
        (lambda x: x[::-1], "depends on the other rows"),
        (lambda x: np.cumsum(x, 0), "depends on the other rows"),
    ],
)
def test_whether_rows_stand_alone(function: Any, said: str | None) -> None:
    given = first_request(Path("nowhere"), *SPECS)
    why = rows_stand_alone(lambda arrays: {"y": function(arrays["x"])}, given, *SPECS)
    assert (why is None) if said is None else said in why


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float16", "str"])
@pytest.mark.parametrize("zeros", [False, True])
def test_rows_that_do_not_stand_alone_are_found_in_all_types(dtype: str, zeros: bool) -> None:
    """Each row gets the share of rows that are like the first one."""
    specs = [TensorSpec("x", dtype, (None, 1))], [TensorSpec("y", "float32", (None,))]
    given = first_request(Path("nowhere"), *specs)
    if zeros and dtype != "str":
        given = {"x": np.zeros_like(given["x"])}

    def share(arrays: Any) -> dict[str, np.ndarray]:
        alike = (arrays["x"] == arrays["x"][0]).mean()
        return {"y": np.full(len(arrays["x"]), alike, "float32")}

    assert "depends on the other rows" in rows_stand_alone(share, given, *specs)
    first = lambda arrays: {"y": np.ones(len(arrays["x"]), "float32")}  # noqa: E731
    assert rows_stand_alone(first, given, *specs) is None


def test_a_fixed_number_of_rows_is_not_changed() -> None:
    specs = [TensorSpec("x", "int32", (1, None))], [TensorSpec("y", "int32", (None,))]
    given = first_request(Path("nowhere"), *specs)
    assert given["x"].shape == (1, 1)
    assert "the first size of x is fixed" in rows_stand_alone(dict, given, *specs)


def test_what_is_in_a_folder(tmp_path: Path) -> None:
    for path in (
        *("a/1/model.onnx", "a/10/any.tflite", "a/2/saved_model.pb", "a/3/sub/saved_model.pb"),
        *("a/4/one.onnx", "a/4/two.keras", "a/5/readme.txt", "a/6.copying/model.onnx"),
        *("a/07/model.onnx", "a/v8/model.onnx", ".hidden/1/model.onnx", "file", "b/c/1/x.onnx"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    os.mkfifo(tmp_path / "a/5/pipe.onnx")
    (tmp_path / "a/1/._model.onnx").touch()
    found = look(tmp_path).models
    assert found.keys() == {"a", "b"}
    assert found["b"] == {}
    files = {number: str(each.file) for number, each in found["a"].items()}
    wanted = {1: "model.onnx", 10: "any.tflite", 2: ".", 3: "sub", 4: "None", 5: "None"}
    assert files == wanted
    assert "several models" in found["a"][4].problem
    (tmp_path / "a/1/model.onnx").write_text("changed")
    assert look(tmp_path).models["a"][1] != found["a"][1]
    assert look(tmp_path).models["a"][10] == found["a"][10]


def test_a_version_that_can_not_be_read_is_nobody_elses_problem(tmp_path: Path) -> None:
    for model in ("good", "bad"):
        (tmp_path / model / "1").mkdir(parents=True)
        (tmp_path / model / "1/model.onnx").touch()
    (tmp_path / "bad/1/loop").symlink_to("loop")
    found = look(tmp_path).models
    assert str(found["good"][1].file) == "model.onnx"
    assert found["bad"][1].file is None
    assert "Too many levels of symbolic links" in found["bad"][1].problem


def test_a_model_that_can_not_be_read_is_nobody_elses_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("bad", "good"):
        (tmp_path / model / "1").mkdir(parents=True)
        (tmp_path / model / "1/model.onnx").touch()
    names = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == "bad":  # as for a user who may not; root may
            raise PermissionError(13, "Permission denied", str(folder))
        return names(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = look(tmp_path)
    assert found.models.keys() == {"good"}
    assert found.unreadable == {"bad": "Permission denied"}


def test_a_version_with_countless_files_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvdkit.serving.repository._MOST_FILES", 5)
    for number in range(4):
        (tmp_path / f"model/1/{number}").mkdir(parents=True)
        (tmp_path / f"model/1/{number}/a").touch()
        (tmp_path / f"model/1/{number}/b").touch()
    (tmp_path / "model/1/model.onnx").touch()
    found = look(tmp_path).models["model"][1]
    assert found.file is None
    assert "more than 5 files" in found.problem


def test_a_log_that_nobody_reads_keeps_nobody_waiting() -> None:
    class Stuck:
        def __init__(self) -> None:
            self.lines: list[str] = []
            self.go = threading.Event()

        def write(self, line: str) -> None:
            self.go.wait(60)
            self.lines.append(line)

        def flush(self) -> None: ...

    stream = Stuck()
    log = Log(stream)
    for i in range(12_000):
        log.info("line", number=i)
    stream.go.set()
    log._thread.join(0.01)
    for _ in range(100):
        if log._lines.empty():
            break
        log._thread.join(0.1)
    log.info("last")
    log.close()
    events = [json.loads(line)["event"] for line in stream.lines]
    assert events[-1] == "last"
    assert "lines_lost" in events


def test_the_worker_loads_no_web_server() -> None:
    import subprocess

    code = "import hvdkit.serving.worker, sys; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    for package in ("fastapi", "uvicorn", "keras", "tensorflow"):
        assert f"'{package}'" not in loaded
