"""What a launcher starts for each rank: `python -m hvdkit_cli.run.rank COMMAND ARGUMENT...`.

It runs the command as its child, gives what that prints to the supervisor, and says how it ended.
It loads little, so that it is there at once.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Mapping

from hvdkit_cli.launched import rank_of
from hvdkit_cli.run.attendant import Attendant
from hvdkit_cli.run.script import Script
from hvdkit_cli.run.wire import ADDRESS_VARIABLE, ERR, TOKEN_VARIABLE, Message, Wire, parsed

CANNOT_START = 127  # as shells have it
_CONNECT_SECONDS = 3.0
_ALL_ADDRESSES_SECONDS = 20.0
_WAIT_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Run a rank's command; returns the exit status of this process."""
    environ = dict(os.environ)
    addresses, token = environ.pop(ADDRESS_VARIABLE, ""), environ.pop(TOKEN_VARIABLE, "")
    rank = rank_of(environ)
    if rank is None or not addresses:
        return _fail(f"hvdkit run did not start this process on host {socket.gethostname()}.")
    me = {"rank": rank, "host": _host(environ), "slot": environ.get("HOROVOD_LOCAL_RANK", "0")}
    found = _connected(addresses, {"type": "hello", "token": token, "pid": os.getpid(), **me})
    if found is None:
        return _fail(
            f"rank {rank} on host {me['host']} can't connect to hvdkit run at {addresses}: "
            "let the hosts connect to each other over TCP (--interface names the network)."
        )
    wire, terms = found
    environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        script = Script(command, environ)
    except OSError as error:
        said = f"{command[0]} can't be started on host {me['host']}: {error.strerror}."
        return _cannot_start(wire, said)
    return Attendant(wire, script, terms).run()


def _host(environ: Mapping[str, str]) -> str:
    """The name of this host, as Gloo's launcher calls it where that has started this rank."""
    return environ.get("HOROVOD_HOSTNAME") or socket.gethostname()


def _connected(addresses: str, hello: Message) -> tuple[Wire, Message] | None:
    """The connection to the supervisor, and its answer; None if none of the addresses is its own.

    Args:
        addresses: such as "10.0.0.1,192.168.0.1:4000".
        hello: the first message.
    """
    hosts, _, port = addresses.rpartition(":")
    end = time.monotonic() + _ALL_ADDRESSES_SECONDS
    while time.monotonic() < end:
        for host in hosts.split(","):
            try:
                wire = Wire(socket.create_connection((host, int(port)), _CONNECT_SECONDS))
                wire.tell(hello)
                return wire, _welcome(wire)
            except OSError:
                continue  # of another network, or somebody else's port
        time.sleep(0.5)
    return None


def _welcome(wire: Wire) -> Message:
    message = _messages(wire).get("welcome")
    if message is None:
        raise ConnectionError("no supervisor")
    return message


def _messages(wire: Wire) -> dict[str, Message]:
    """The next messages that come, by their types.

    Raises:
        ConnectionError: none has come in time.
    """
    if not select.select([wire], [], [], _WAIT_SECONDS)[0]:
        raise ConnectionError("silent")
    messages = [parsed(content) for _, content in wire.receive()]
    return {message["type"]: message for message in messages}


def _cannot_start(wire: Wire, said: str) -> int:
    wire.send(ERR, f"hvdkit run: error: {said}\n".encode(errors="surrogateescape"))
    wire.tell({"type": "ended", "status": CANNOT_START})
    try:
        while "release" not in _messages(wire):
            pass
    except ConnectionError:
        return CANNOT_START  # it has heard, or nobody is there
    return CANNOT_START


def _fail(said: str) -> int:
    print(f"hvdkit run: error: {said}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
