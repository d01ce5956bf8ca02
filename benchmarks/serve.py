"""What dynamic batching gives: requests a second, and how long an answer takes, on loopback.

    python benchmarks/serve.py

Two servers (`hvdkit serve`) have the same ONNX model, dense layers with ReLU. One puts requests
together, the other runs each by itself; they get their turns one after the other, while the other
is idle. Some clients each send a row, wait for the answer, and send the next one, over connections
that stay. Server, model and clients share the machine: what a client's process takes is missing to
the others, alike in both cases. Each turn has some seconds, of which the first second is left out.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

_LIMIT = 60  # seconds until a server is there
_WARM_UP = 1.0


@click.command()
@click.option("--clients", default="1,4,16,64", help="Numbers of clients.")
@click.option("--width", default=1024, help="Units of a layer.")
@click.option("--layers", default=4)
@click.option("--batch", default=32, help="Rows of a batch at most.")
@click.option("--wait", default=2.0, help="Milliseconds that a request waits for others.")
@click.option("--threads", default=1, help="Of the runtime.")
@click.option("--rounds", default=5, help="Turns of each server, for each number of clients.")
@click.option("--seconds", default=4.0, help="Of a turn.")
def main(
    clients: str,
    width: int,
    layers: int,
    batch: int,
    wait: float,
    threads: int,
    rounds: int,
    seconds: float,
) -> None:
    """Compare a server that puts requests together with one that does not."""
    console = Console(width=120)
    title = (
        f"{layers} dense layers of {width} units, a row a request, {rounds} turns of {seconds:g} s"
    )
    table = Table(title=title)
    for name in ("clients", "batches", "requests/s (quartiles)", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="right")
    options = ["--wait", str(wait), "--threads", str(threads)]
    body = json.dumps(_request(width)).encode()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder, "dense/1/model.onnx"), width, layers)
        with (
            _server(folder, ["--batch", "1", *options]) as alone,
            _server(folder, ["--batch", str(batch), *options]) as together,
        ):
            servers = {"no": alone, f"to {batch}": together}
            for number in map(int, clients.split(",")):
                found: dict[str, list[list[float]]] = {name: [] for name in servers}
                for _ in range(rounds):
                    for name, port in servers.items():
                        found[name].append(asyncio.run(_turn(port, body, number, seconds)))
                for name, turns in found.items():
                    table.add_row(str(number), name, *_columns(turns, seconds))
    console.print(table)


def write_model(path: Path, width: int, layers: int) -> None:
    """Write dense layers with ReLU as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        kernel = generator.normal(scale=width**-0.5, size=(width, width)).astype("float32")
        weights.append(numpy_helper.from_array(kernel, f"kernel{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"kernel{i}"], [f"product{i}"]))
        last = "y" if i == layers - 1 else f"activation{i}"
        nodes.append(helper.make_node("Relu", [f"product{i}"], [last]))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "dense", values[:1], values[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def _request(width: int) -> dict[str, object]:
    row = np.random.default_rng(1).normal(size=width).astype("float32").tolist()
    return {"inputs": [{"name": "x", "shape": [1, width], "datatype": "FP32", "data": row}]}


@contextmanager
def _server(folder: str, options: list[str]) -> Iterator[int]:
    """A server in a process of its own; the port."""
    command = [sys.executable, "-m", "hvdkit_cli.main", "serve", folder, "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log)
        try:
            end = time.monotonic() + _LIMIT
            while True:
                log.seek(0)
                lines = [json.loads(line) for line in log.read().splitlines(keepends=False)]
                events = {line["event"]: line for line in lines}
                if "serving" in events:
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server does not serve: {lines}")
                time.sleep(0.1)
            yield int(events["listening"]["url"].rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(_LIMIT)


async def _turn(port: int, body: bytes, clients: int, seconds: float) -> list[float]:
    """The seconds of all answers in a turn."""
    head = f"POST /v2/models/dense/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    data = head.encode() + body
    begin = time.perf_counter() + _WARM_UP
    found: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent := time.perf_counter()) < begin + seconds:
            writer.write(data)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(answer.decode())
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            if sent >= begin:
                found.append(time.perf_counter() - sent)
        writer.close()

    await asyncio.wait_for(
        asyncio.gather(*(client() for _ in range(clients))), _WARM_UP + seconds + _LIMIT
    )
    return found


def _columns(turns: list[list[float]], seconds: float) -> list[str]:
    low, middle, high = statistics.quantiles([len(turn) / seconds for turn in turns], n=4)
    columns = [f"{middle:.0f} ({low:.0f} to {high:.0f})"]
    for share in (50, 95, 99):
        times = [1000 * float(np.percentile(turn, share)) for turn in turns]
        low, middle, high = statistics.quantiles(times, n=4)
        columns.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
    return columns


if __name__ == "__main__":
    main()
