"""Clients that are slow, malicious or broken."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from server_process import Server, answer_of, asked, put

INFER = "/v2/models/adder/infer"
HEAD = b"POST /v2/models/adder/infer HTTP/1.1\r\nHost: h\r\n"


def tensor(**changes: object) -> dict:
    """A request with one input, some of it changed; None leaves a field out."""
    given = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **changes}
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


MALFORMED = {
    "no JSON": b"{",
    "no UTF-8": b'{"inputs": "\xff"}',
    "a list": [],
    "no inputs": {},
    "inputs that are no list": {"inputs": {"x": 1}},
    "an unknown field": {**tensor(), "pickle": 1},
    "an unknown parameter": {**tensor(), "parameters": {"shared_memory_region": "r"}},
    "parameters that are no object": {**tensor(), "parameters": []},
    "an id that is no text": {**tensor(), "id": 7},
    "an id without end": {**tensor(), "id": "i" * 1000},
    "a name twice": b'{"inputs": [], "inputs": []}',
    "an input twice": {"inputs": tensor()["inputs"] * 2},
    "another input": tensor(name="z"),
    "another type": tensor(datatype="INT64"),
    "a type that there is not": tensor(datatype=["FP32"]),
    "another rank": tensor(shape=[2]),
    "no shape": tensor(shape=None),
    "a shape of text": tensor(shape="12"),
    "a negative size": tensor(shape=[-1, 2]),
    "a size that is true": tensor(shape=[True, 2]),
    "a size that is a fraction": tensor(shape=[1.0, 2]),
    "no rows": tensor(shape=[0, 2], data=[]),
    "too few values": tensor(data=[1]),
    "too many values": tensor(data=[1, 2, 3]),
    "no data": tensor(data=None),
    "data of text": tensor(data=["1", "2"]),
    "data of truth": tensor(data=[True, False]),
    "data of nothing": tensor(data=[None, None]),
    "ragged data": tensor(shape=[2, 2], data=[[1, 2], [3]]),
    "data nested otherwise": tensor(shape=[1, 2], data=[[1], [2]]),
    "data nested deeper": tensor(data=[[[1], [2]]]),
    "mixed data": tensor(shape=[2, 1], data=[[1], 2]),
    "NaN": b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [NaN]}]}',
    "more than a number": tensor(data=[1e39, 1]),
    "much more than a number": json.dumps(tensor()).replace("[1, 2]}", "[1, 1e999]}").encode(),
    "digits without end": b'{"inputs": ' + b"9" * 5000 + b"}",
    "data twice": tensor(parameters={"binary_data_size": 8}),
    "bytes that are not there": tensor(data=None, parameters={"binary_data_size": 8}),
    "a negative number of bytes": tensor(data=None, parameters={"binary_data_size": -8}),
    "outputs that are no list": {**tensor(), "outputs": "y"},
    "another output": {**tensor(), "outputs": [{"name": "z"}]},
    "an output that is a list": {**tensor(), "outputs": [{"name": ["y"]}]},
    "an output twice": {**tensor(), "outputs": [{"name": "y"}, {"name": "y"}]},
    "a deadline of text": {**tensor(), "parameters": {"timeout": "soon"}},
}
TOO_LARGE = {
    "many elements": tensor(shape=[10**6, 10**6]),
    "as many as there can be": tensor(shape=[2**62, 2**62]),
    "many dimensions": tensor(shape=[1] * 100),
    "deep": b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "many values": {"inputs": [[]] * 20_000},
    "many bytes": b" " * 100_001,
}


def test_malformed_requests(server: Server) -> None:
    faults = server.figure("refused_total", reason="fault")
    for name, body in MALFORMED.items():
        status, _, answer = server.request("POST", INFER, body)
        assert status == 400, (name, answer)
        assert answer["error"], name
    for name, body in TOO_LARGE.items():
        assert server.request("POST", INFER, body)[0] == 413, name
    for size in ("-1", "1e3", "99999", "9" * 30):
        wrong = {"Inference-Header-Content-Length": size}
        assert server.request("POST", INFER, tensor(), wrong)[0] == 400, size
    assert server.figure("refused_total", reason="fault") == faults
    assert server.y("adder", [[1.0]])[1].item() == 3


def test_the_body_is_not_read_beyond_the_limit(server: Server) -> None:
    connection = server.raw(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    assert answer_of(connection).startswith(b"HTTP/1.1 413 ")
    connection = server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    sent = 0
    try:
        while sent < 100_000_000:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            sent += 0x10000
    except OSError:
        pass  # the server has closed
    connection.close()
    assert sent < 20_000_000  # what buffers on the way take


def test_slow_clients_are_not_waited_for(server: Server) -> None:
    """Heads and bodies that do not come, answers that are not taken: at most some seconds."""
    begin = time.monotonic()
    nothing = server.raw(b"")
    half = server.raw(HEAD)
    body = server.raw(HEAD + b"Content-Length: 100\r\n\r\n{")
    again = server.raw(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\nGET /v2")
    assert answer_of(nothing).startswith(b"HTTP/1.1 408 ")
    assert answer_of(half).startswith(b"HTTP/1.1 408 ")
    assert answer_of(body).startswith(b"HTTP/1.1 408 ")
    assert b"HTTP/1.1 408 " in answer_of(again)
    assert time.monotonic() - begin < 30
    assert server.request("GET", "/v2/health/live")[0] == 200


def test_a_head_without_end(server: Server) -> None:
    connection = server.raw(HEAD + b"X: " + b"x" * 20_000)
    assert answer_of(connection).startswith(b"HTTP/1.1 400 ")


def garbage(generator: random.Random) -> tuple[bytes, bool]:
    """A request that is broken somewhere, and whether its head is whole."""
    body = json.dumps(generator.choice([tensor(), asked([[1, 2]] * 5)])).encode()
    kind = generator.randrange(4)
    if kind == 0:
        return generator.randbytes(generator.randrange(1, 300)) + b"\r\n\r\n", False
    if kind == 1:
        return broken(head_for(body), generator) + body, False
    body = broken(body, generator)
    return head_for(body) + body, True


def head_for(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)


def broken(whole: bytes, generator: random.Random) -> bytes:
    """Some bytes of it are changed, left out or put in."""
    data = bytearray(whole)
    for _ in range(generator.randrange(1, 6)):
        position = generator.randrange(len(data))
        change = generator.randrange(3)
        if change == 0:
            data[position] = generator.randrange(256)
        elif change == 1:
            del data[position : position + generator.randrange(1, 20)]
            data = data or bytearray(b"{")
        else:
            data[position:position] = generator.choice([b"[", b"{", b'"', b"9" * 50, b"\x00"])
    return bytes(data)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_garbage(server: Server, count: int) -> None:
    """No crash, no wrong answer to others, no memory that grows."""
    process = psutil.Process(server.process.pid)
    faults = server.figure("refused_total", reason="fault")
    generator = random.Random(count)
    sizes = []

    def send(data: bytes, head_is_whole: bool) -> bytes:
        connection = server.raw(data)
        if not head_is_whole:  # the server may wait for more of it: this client goes away
            connection.settimeout(0.1)
        return answer_of(connection)

    with ThreadPoolExecutor(8) as pool:
        for part in range(10):
            sent = [garbage(generator) for _ in range(count // 10)]
            for (_, whole), answer in zip(sent, pool.map(lambda g: send(*g), sent), strict=True):
                assert (answer == b"" and not whole) or answer[:12] in {
                    b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405",
                    b"HTTP/1.1 406", b"HTTP/1.1 408", b"HTTP/1.1 413", b"HTTP/1.1 415",
                    b"HTTP/1.1 429", b"HTTP/1.1 501",
                }, answer  # fmt: skip
            assert server.y("adder", [[part]])[1].item() == 2 * part + 1
            sizes.append(process.memory_info().rss)
    assert server.figure("refused_total", reason="fault") == faults
    assert sizes[-1] - sizes[4] < 20e6, sizes


@pytest.mark.long
def test_an_answer_that_nobody_takes_is_not_kept(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    put(tmp_path, "adder", 1)
    server = start(limits={"idle": 1})
    server.wait_for("serving", model="adder")
    x = np.zeros((1000, 4000), "float32")
    described = {"name": "x", "datatype": "FP32", "shape": list(x.shape)}
    described["parameters"] = {"binary_data_size": x.nbytes}
    parameters = {"binary_data_output": True}
    text = json.dumps({"inputs": [described], "parameters": parameters}).encode()
    length = b"Content-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n"
    connection = server.raw(HEAD + length % (len(text) + x.nbytes, len(text)) + text + x.tobytes())
    server.wait_for("request", model="adder", code=200)
    time.sleep(5)
    assert 0 < len(answer_of(connection)) < x.nbytes  # what was on its way, and no more
    assert server.y("adder", [[1.0]])[1].item() == 2
