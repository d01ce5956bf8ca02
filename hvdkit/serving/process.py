"""A model's process, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving import frames
from hvdkit.serving.frames import Frame
from hvdkit.serving.repository import Found
from hvdkit.serving.settings import Running

COMMAND = (sys.executable, "-m", "hvdkit.serving.worker")

_TAIL = 2000  # characters of what a process has printed last
_BUFFER = 1024 * 1024


class LoadError(Exception):
    """A version can't be loaded, or its first request failed; the message says why."""


class RunError(Exception):
    """The runtime could not run a batch; the process goes on."""


class ProcessLostError(Exception):
    """The process has ended, or was ended because it took too long."""


class ModelProcess:
    """A process that holds a version. It runs one batch at a time.

    Attributes:
        inputs: what the model takes.
        outputs: what it gives.
        single: why requests can't be put together; None: they can.
    """

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        self.single: str | None = None
        self._process = process
        self._connection = connection
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tail = ""
        self._printing = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, found: Found, running: Running, command: Sequence[str] = COMMAND
    ) -> ModelProcess:
        """Start a process, and wait until it has loaded a version and answered first requests.

        Raises:
            LoadError: it failed, crashed, or took longer than `running.load`.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        threads = [] if running.threads is None else [str(running.threads)]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(found.folder),
                str(found.file),
                str(theirs.fileno()),
                *threads,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C on a terminal is for the server
            )
        self = cls(process, ours)
        try:
            await self._open(running.load)
        except BaseException:
            await self.end()
            raise
        return self

    async def run(
        self, arrays: Mapping[str, np.ndarray], seconds: float
    ) -> tuple[Mapping[str, np.ndarray], float]:
        """Run a batch.

        Args:
            arrays: an array for each input.
            seconds: that it may take.

        Returns:
            An array for each output, and the seconds that the model took.

        Raises:
            RunError: the runtime has raised an error.
            ProcessLostError: the process is of no more use.
        """
        assert self._reader is not None
        assert self._writer is not None
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(frames.packed(Frame("run", {}, arrays)))
                await self._writer.drain()
                answer = await _receive(self._reader)
        except TimeoutError:
            raise ProcessLostError(f"it took longer than {seconds:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            raise ProcessLostError(await self._how_it_ended()) from None
        if answer.kind == "error":
            raise RunError(f"{answer.facts['kind']}: {answer.facts['message']}")
        return answer.arrays, answer.facts["seconds"]

    async def end(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._printing.cancel()
        if self._writer is None:
            self._connection.close()
        else:
            self._writer.close()

    async def _open(self, seconds: float) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            sock=self._connection, limit=_BUFFER
        )
        try:
            async with asyncio.timeout(seconds):
                frame = await _receive(self._reader)
        except TimeoutError:
            raise LoadError(f"loading took longer than {seconds:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            how = await self._how_it_ended()
            raise LoadError(f"its process crashed: {how}; it printed: {self._tail!r}") from None
        if frame.kind == "failed":
            raise LoadError(frame.facts["message"])
        self.inputs = [_spec(*each) for each in frame.facts["inputs"]]
        self.outputs = [_spec(*each) for each in frame.facts["outputs"]]
        self.single = frame.facts["single"]

    async def _how_it_ended(self) -> str:
        try:
            status = await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            return "it has closed its connection"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    async def _listen(self) -> None:
        """Take what runtimes print, of which only the end is kept: it may hold inputs."""
        assert self._process.stdout is not None
        while printed := await self._process.stdout.read(4096):
            self._tail = (self._tail + printed.decode(errors="replace"))[-_TAIL:]


async def _receive(reader: asyncio.StreamReader) -> Frame:
    head_size, payload_size = frames.SIZES.unpack(await reader.readexactly(frames.SIZES.size))
    head = await reader.readexactly(head_size)
    return frames.unpacked(head, await reader.readexactly(payload_size))


def _spec(name: str, dtype: str, shape: Sequence[int | None]) -> TensorSpec:
    return TensorSpec(name, dtype, tuple(shape))
