"""Runs batch after batch on a model's process, and starts it again when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hvdkit.serving.batching import Queue, Waiting, divide, joined
from hvdkit.serving.figures import Figures
from hvdkit.serving.logs import Log
from hvdkit.serving.problems import Problem, not_started, stopping
from hvdkit.serving.process import LoadError, ModelProcess, ProcessLostError, RunError
from hvdkit.serving.repository import Found
from hvdkit.serving.settings import Running

_LONGEST_PAUSE = 30.0


class Runner:
    """One process of a version.

    Args:
        model: the model's name.
        found: the version.
        process: that holds it.
        queue: where requests wait.
        running: see `Running`.
        command: that starts a process.
        figures: to count in.
        log: to say it.
        on_failed_start: called with the reason when a lost process can't be started again.
    """

    def __init__(
        self,
        model: str,
        found: Found,
        process: ModelProcess,
        queue: Queue,
        running: Running,
        command: Sequence[str],
        figures: Figures,
        log: Log,
        on_failed_start: Callable[[Problem], None],
    ) -> None:
        self._model = model
        self._found = found
        self._process: ModelProcess | None = process
        self._queue = queue
        self._running = running
        self._command = command
        self._figures = figures
        self._log = log
        self._on_failed_start = on_failed_start
        self._task = asyncio.create_task(self._serve())

    @property
    def able(self) -> bool:
        """Whether there is a process now."""
        return self._process is not None

    async def end(self) -> None:
        """End the process; a batch that it runs is told that the server stops."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await self._process.end()

    async def _serve(self) -> None:
        while True:
            if self._process is None:
                await self._start_again()
            batch = await self._queue.get()
            try:
                await self._run(batch)
            finally:  # all have been told, but where the server stops
                for each in batch:
                    each.fail(stopping())

    async def _run(self, batch: list[Waiting]) -> None:
        """Run a batch; if it fails as a whole, each of its requests by itself."""
        problem = await self._try(batch)
        if problem is None:
            return
        if len(batch) == 1:
            batch[0].fail(problem)
            return
        self._figures.divided(self._model)
        for each in batch:
            if each.answer.done():
                continue  # its deadline has passed meanwhile, or the client has gone
            problem = await self._try([each])
            if problem is not None:
                each.fail(problem)

    async def _try(self, batch: list[Waiting]) -> Problem | None:
        """Run a batch and give each request its rows, or say why nobody got any."""
        if self._process is None and (problem := await self._problem_of_start()):
            return problem
        assert self._process is not None
        began = asyncio.get_running_loop().time()
        try:
            outputs, ran = await self._process.run(joined(batch), self._running.run)
        except RunError as error:
            return Problem(500, "model", f"the model can't answer this: {error}")
        except ProcessLostError as error:
            await self._lost(error)
            return Problem(500, "lost", f"the model's process was lost while it ran this: {error}")
        self._queue.took(ran)
        if not divide(batch, outputs, ran, began):
            return Problem(500, "model", "the model's outputs do not have the inputs' rows.")
        self._figures.ran(
            self._model,
            [began - each.since for each in batch],
            ran,
            sum(e.rows or 1 for e in batch),
        )
        return None

    async def _lost(self, error: ProcessLostError) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        self._figures.lost(self._model)
        self._log.error(
            "process_lost", model=self._model, version=self._found.number, how=str(error)
        )
        await process.end()

    async def _start_again(self) -> None:
        """Start the process, however often it takes; who waits is told when it fails."""
        pause = 0.0
        while await self._problem_of_start() is not None:
            pause = min(max(1.0, 2 * pause), _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _problem_of_start(self) -> Problem | None:
        """Start the process; why that failed."""
        about = {"model": self._model, "version": self._found.number}
        try:
            self._process = await ModelProcess.start(self._found, self._running, self._command)
        except LoadError as error:
            self._log.error("not_started_again", why=str(error), **about)
            problem = not_started(str(error))
            self._on_failed_start(problem)
            return problem
        self._log.info("started_again", **about)
        return None
