"""The process of a model: it loads a version, answers what the server sends, and ends with it.

    python -m hvdkit.serving.worker FOLDER FILE DESCRIPTOR [THREADS]

A runtime may crash, hang or leave memory behind; here it takes nothing else with it.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hvdkit.export.runtimes import Runtime
from hvdkit.serving import frames
from hvdkit.serving.datatypes import datatype_of, described
from hvdkit.serving.first_request import FILE, first_request, rows_stand_alone
from hvdkit.serving.frames import Frame

Load = Callable[[Path, int | None], Runtime]

_LONGEST_MESSAGE = 500


def main(load: Load) -> None:
    """Serve a version until the server closes the connection.

    Args:
        load: loads the model of a path, with so many threads.
    """
    folder, file, descriptor, *threads = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    waiting: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, waiting), daemon=True).start()
    try:
        model = load(Path(folder, file), int(threads[0]) if threads else None)
        frames.send(connection, _ready(model, Path(folder)))
    except Exception as error:  # whatever a runtime raises: the server says it
        frames.send(connection, Frame("failed", {"message": _message(error)}))
        raise SystemExit(1) from None
    while True:
        frames.send(connection, _answer(model, waiting.get()))


def _listen(connection: socket.socket, waiting: queue.SimpleQueue[Frame]) -> None:
    """Hand requests on; without a server there is nothing to do, in whatever the model is."""
    try:
        while (frame := frames.receive(connection)) is not None:
            waiting.put(frame)
    finally:
        os._exit(0)


def _ready(model: Runtime, folder: Path) -> Frame:
    """Run the first requests; what the server has to know of the version."""
    for spec in (*model.inputs, *model.outputs):
        described(spec)  # raises for types that can't be served
    given = first_request(folder, model.inputs, model.outputs)
    try:
        _run(model, given)
    except Exception as error:
        hint = f"; {FILE} in its folder, in the protocol's JSON, takes the place of one made up"
        raise RuntimeError(f"its first request failed: {_message(error)}{hint}") from error
    try:
        alone = rows_stand_alone(
            lambda arrays: _run(model, arrays), given, model.inputs, model.outputs
        )
    except Exception as error:
        alone = f"a request with other rows failed: {_message(error)}"
    return Frame(
        "ready",
        {
            "inputs": [[spec.name, spec.dtype, spec.shape] for spec in model.inputs],
            "outputs": [[spec.name, spec.dtype, spec.shape] for spec in model.outputs],
            "single": alone,
        },
    )


def _answer(model: Runtime, frame: Frame) -> Frame:
    begin = time.perf_counter()
    try:
        outputs = _run(model, frame.arrays)
    except Exception as error:
        return Frame("error", {"message": _message(error), "kind": type(error).__name__})
    return Frame("outputs", {"seconds": time.perf_counter() - begin}, outputs)


def _run(model: Runtime, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # A runtime may read numbers where they are, which has to be where the processor likes it.
    given = model({name: np.require(array, None, ["A", "C"]) for name, array in arrays.items()})
    found = {spec.name: _bytes_of(np.asarray(given[spec.name])) for spec in model.outputs}
    for array in found.values():
        datatype_of(array)  # raises for types that can't be served
    return found


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """Text as bytes, other arrays as they are."""
    if array.dtype.kind not in "OUS":
        return array
    flat = np.empty(array.size, object)
    flat[:] = [
        each if isinstance(each, bytes) else str(each).encode("utf-8", "surrogateescape")
        for each in array.ravel().tolist()
    ]
    return flat.reshape(array.shape)


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


if __name__ == "__main__":
    from hvdkit.export.runtimes import load as load_runtime

    main(load_runtime)
