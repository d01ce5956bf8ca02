"""A version that serves: its processes, its queue, and how it is let go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving.batching import Answer, Arrays, Queue
from hvdkit.serving.figures import Figures
from hvdkit.serving.logs import Log
from hvdkit.serving.problems import Problem, not_started, stopping
from hvdkit.serving.process import LoadError, ModelProcess
from hvdkit.serving.repository import Found
from hvdkit.serving.runner import Runner
from hvdkit.serving.settings import Settings


class Version:
    """A version of a model that has answered its first request.

    Attributes:
        model: the model's name.
        found: what it was loaded from.
        inputs: what it takes.
        outputs: what it gives.
        single: why its requests are not put together; None: they are.
        queue: where requests wait.
    """

    def __init__(
        self,
        model: str,
        found: Found,
        processes: Sequence[ModelProcess],
        settings: Settings,
        command: Sequence[str],
        figures: Figures,
        log: Log,
    ) -> None:
        first = processes[0]
        self.model = model
        self.found = found
        self.inputs: Sequence[TensorSpec] = first.inputs
        self.outputs: Sequence[TensorSpec] = first.outputs
        self.single = first.single if settings.batching.rows > 1 else "--batch is 1"
        self.queue = Queue(settings.batching, self.single is None)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._runners = [
            Runner(
                *(model, found, each, self.queue, settings.running, command, figures, log),
                on_failed_start=self._fail_who_waits,
            )
            for each in processes
        ]

    @classmethod
    async def load(
        cls,
        model: str,
        found: Found,
        settings: Settings,
        command: Sequence[str],
        figures: Figures,
        log: Log,
    ) -> Version:
        """Start the processes of a version; each answers a first request before it serves.

        Raises:
            LoadError: one of them could not.
        """
        if found.file is None:
            raise LoadError(found.problem)
        processes: list[ModelProcess] = []
        try:
            for _ in range(settings.running.workers):
                processes.append(await ModelProcess.start(found, settings.running, command))
        except BaseException:
            for process in processes:
                await process.end()
            raise
        return cls(model, found, processes, settings, command, figures, log)

    @property
    def number(self) -> int:
        """Its number."""
        return self.found.number

    @property
    def ready(self) -> bool:
        """Whether it has a process that can run requests."""
        return any(runner.able for runner in self._runners)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it until the block ends, whatever version comes."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def submit(self, inputs: Arrays, deadline: float) -> asyncio.Future[Answer]:
        """See `Queue.put`."""
        return self.queue.put(inputs, deadline)

    def _fail_who_waits(self, problem: Problem) -> None:
        """A process can't be started again; if there is no other one, nobody else answers them."""
        if not self.ready:
            self.queue.fail_all(problem)

    async def let_go(self) -> None:
        """Wait until nobody uses it, and end its processes."""
        self._fail_who_waits(not_started("another version has taken its place."))
        await self._unused.wait()
        await self.stop()

    async def stop(self) -> None:
        """End its processes now; who still waits is told."""
        self.queue.close()
        self.queue.fail_all(stopping())
        await asyncio.gather(*(runner.end() for runner in self._runners))
