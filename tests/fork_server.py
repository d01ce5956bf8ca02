"""A process that has imported TensorFlow and Keras, and forks one for each that asks for it.

    fork_server.py SOCKET

Importing them is most of what a rank's start takes. TensorFlow has started no thread by then, and
a fork goes on as if it had been started as `python SCRIPT ARGUMENTS`: with the environment, the
folder, the cores, and the output of the `fork_client.py` that asked. Neither hvdkit nor Horovod is
imported here. The server says when it is ready, or why nobody should fork it. It ends, and its
forks with it, when its standard input does.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras  # noqa: F401
import numpy as np
import tensorflow as tf  # noqa: F401

NUMBER_BYTES = 8


@dataclass(frozen=True)
class _Fork:
    """A process, and the client that it stands for."""

    pid: int
    pidfd: int
    client: socket.socket


def serve(address: str) -> dict[str, Any]:
    """Fork for each client. Returns in the forks only, with what the client asked for."""
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    # What another thread holds would be held forever in a fork.
    threads = len(os.listdir("/proc/self/task"))
    print("ready" if threads == 1 else f"not safe: {threads} threads", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    forks: set[_Fork] = set()
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                request, streams = _read(client)
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for own in (listener, client, *(fork.client for fork in forks)):
                        own.close()
                    for fork in forks:
                        os.close(fork.pidfd)
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    return request
                for stream in streams:
                    os.close(stream)
                _send(client, pid)
                fork = _Fork(pid, os.pidfd_open(pid), client)
                forks.add(fork)
                selector.register(fork.pidfd, selectors.EVENT_READ, fork)
                selector.register(client, selectors.EVENT_READ, fork)
            elif key.data is None:
                for fork in forks:
                    os.kill(fork.pid, signal.SIGKILL)
                sys.exit()
            elif key.data not in forks:
                pass  # it and its client were both ready
            elif key.fileobj is key.data.client:  # the launcher has killed it
                selector.unregister(key.data.client)
                os.kill(key.data.pid, signal.SIGKILL)
            else:
                fork = key.data
                _send(fork.client, os.waitpid(fork.pid, 0)[1])
                forks.remove(fork)
                selector.unregister(fork.pidfd)
                os.close(fork.pidfd)
                if fork.client.fileno() in selector.get_map():
                    selector.unregister(fork.client)
                fork.client.close()


def _read(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its standard input, output and error."""
    client.settimeout(10)
    head, streams, _, _ = socket.recv_fds(client, NUMBER_BYTES, 3)
    with client.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(head, "big"))), list(streams)


def _send(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it may have been killed
        client.sendall(number.to_bytes(NUMBER_BYTES, "big"))


def become(request: dict[str, Any]) -> None:
    """Run what was asked for, as an interpreter does that has just started."""
    os.setsid()
    os.sched_setaffinity(0, request["cores"])
    os.chdir(request["folder"])
    own_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed()  # Python's own generator sees to itself
    script, *arguments = request["command"]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [path for path in sys.path[1:] if path not in own_paths]
    if script == "-c":
        source, file, first = arguments.pop(0), "<string>", ""
    else:
        source, file, first = Path(script).read_text(), script, str(Path(script).resolve().parent)
    sys.path[:] = [first, *paths, *rest]
    sys.argv[:] = [script, *arguments]
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins)
    if script != "-c":
        main.__file__ = file
    sys.modules["__main__"] = main
    exec(compile(source, file, "exec"), main.__dict__)


if __name__ == "__main__":
    become(serve(sys.argv[1]))
