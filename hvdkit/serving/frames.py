"""What goes between the server and a model's process: a line of JSON, and arrays as bytes.

Nothing is pickled, so that neither side can make the other run code.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvdkit.serving import binary_tensors
from hvdkit.serving.datatypes import datatype_of

SIZES = struct.Struct("<IQ")
"""Before each frame: the bytes of its head, and of its arrays."""


@dataclass(frozen=True)
class Frame:
    """A message.

    Attributes:
        kind: what it says.
        facts: what JSON can hold.
        arrays: tensors by name; text as object arrays of bytes.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def packed(frame: Frame) -> bytes:
    """The bytes of a frame."""
    data = {name: binary_tensors.to_bytes(array) for name, array in frame.arrays.items()}
    tensors = [
        [name, datatype_of(array), list(array.shape), len(data[name])]
        for name, array in frame.arrays.items()
    ]
    head = json.dumps([frame.kind, dict(frame.facts), tensors]).encode()
    payload = b"".join(data.values())
    return b"".join([SIZES.pack(len(head), len(payload)), head, payload])


def send(connection: socket.socket, frame: Frame) -> None:
    """Send a frame, and wait until it is gone."""
    connection.sendall(packed(frame))


def receive(connection: socket.socket) -> Frame | None:
    """Wait for a frame; None: the other side has closed."""
    sizes = _exactly(connection, SIZES.size)
    if sizes is None:
        return None
    head_size, payload_size = SIZES.unpack(sizes)
    head, payload = _exactly(connection, head_size), _exactly(connection, payload_size)
    return None if head is None or payload is None else unpacked(head, payload)


def _exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return data


def unpacked(head: bytes | bytearray, payload: bytes | bytearray) -> Frame:
    """The frame of a head and the bytes of its arrays."""
    kind, facts, tensors = json.loads(head)
    arrays, position, view = {}, 0, memoryview(payload)
    for name, datatype, shape, size in tensors:
        data = view[position : position + size]
        arrays[name] = binary_tensors.to_array(name, data, datatype, shape)
        position += size
    return Frame(kind, facts, arrays)
