"""Stands for a process that a `fork_server.py` forks: gets its signals, and ends as it does.

    fork_client.py SOCKET,SOCKET SCRIPT ARGUMENTS

Ranks take the servers in turn. Each has its own order of sets, as interpreters have that are
started one by one, so that ranks which rely on it differ.
"""

import contextlib
import json
import os
import signal
import socket
import sys

NUMBER_BYTES = 8
_RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(addresses: str, *command: str) -> None:
    rank = next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)
    servers = addresses.split(",")
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(servers[rank % len(servers)])
        request = {
            "command": command,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "cores": sorted(os.sched_getaffinity(0)),
        }
        text = json.dumps(request).encode()
        socket.send_fds(server, [len(text).to_bytes(NUMBER_BYTES, "big")], [0, 1, 2])
        server.sendall(text)
        pid = _number(server)

        def forward(number: int, frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in _FORWARDED:
            signal.signal(number, forward)
        status = _number(server)
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # of SIGKILL it can't be set
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _number(server: socket.socket) -> int:
    data = server.recv(NUMBER_BYTES, socket.MSG_WAITALL)
    if len(data) < NUMBER_BYTES:
        sys.exit("fork_client.py: the server has ended")
    return int.from_bytes(data, "big")


if __name__ == "__main__":
    main(*sys.argv[1:])
