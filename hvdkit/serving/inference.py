"""One request to infer: read, checked, run with others, answered, in time or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hvdkit.serving import requests, responses
from hvdkit.serving.batching import Answer
from hvdkit.serving.body import Bodies
from hvdkit.serving.figures import Figures
from hvdkit.serving.logs import Log, kind_and_place
from hvdkit.serving.models import Models
from hvdkit.serving.problems import Problem, late, malformed
from hvdkit.serving.settings import Settings
from hvdkit.serving.version import Version

TIMEOUT = "X-Request-Timeout"
REQUEST_ID = "X-Request-Id"

_GONE = 499  # what nginx calls a client that has closed; nobody gets it
_LARGE = 64 * 1024  # bytes from which on reading and writing would keep others waiting
_LOGGED = 100  # values of an input in the log, where it may hold them

T = TypeVar("T")


@dataclass
class _Record:
    """What becomes known of a request, for the log."""

    model: str
    facts: dict[str, Any] = field(default_factory=dict)


class Inference:
    """Answers requests to infer.

    Args:
        models: that serve.
        settings: of the server.
        figures: to count in.
        log: a line for each request.
    """

    def __init__(self, models: Models, settings: Settings, figures: Figures, log: Log) -> None:
        self._models = models
        self._settings = settings
        self._figures = figures
        self._log = log
        self._bodies = Bodies(settings.limits)
        # One after the other: lists of numbers take much more memory than the numbers.
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="large")

    async def answer(self, request: Request, model: str, version: str | None) -> Response:
        """Answer a request; every problem is an answer, too."""
        loop = asyncio.get_running_loop()
        began, record = loop.time(), _Record("")
        name = secrets.token_hex(8)
        try:
            response = await self._answer(request, model, version, began, record)
        except Problem as problem:
            response = refusal(problem)
            record.facts["reason"] = problem.reason
            self._figures.refused(problem.reason)
        except ClientDisconnect:
            response = Response(status_code=_GONE)
            record.facts["reason"] = "gone"
            self._figures.refused("gone")
        except Exception as error:  # a fault of this server's: said, and not the end of it
            response = refusal(Problem(500, "fault", "the server has a fault."))
            self._log.error("fault", request=name, **kind_and_place(error))
        seconds = loop.time() - began
        self._figures.answered(record.model, response.status_code, seconds)
        response.headers[REQUEST_ID] = name
        facts = {key: _rounded(value) for key, value in record.facts.items()}
        self._log.info(
            "request",
            request=name,
            model=record.model,
            code=response.status_code,
            seconds=_rounded(seconds),
            **facts,
        )
        return response

    async def _answer(
        self, request: Request, model: str, number: str | None, began: float, record: _Record
    ) -> Response:
        record.model = model if model in self._models else ""
        deadline = began + _seconds_of(request, self._settings.limits.seconds)
        json_size = _json_size(request)
        self._models.get(model, number)  # before a body is read for nothing
        async with self._bodies.read(request) as body:
            version = self._models.get(model, number)
            record.facts |= {"version": version.number, "bytes": len(body)}
            with version.in_use():
                asked = await self._without_blocking(
                    len(body),
                    lambda: requests.parse(
                        body, json_size, version.inputs, version.outputs, self._settings.limits
                    ),
                )
                if self._settings.log_inputs:
                    record.facts["inputs"] = {
                        name: _shown(array) for name, array in asked.inputs.items()
                    }
                if asked.seconds is not None:
                    deadline = min(deadline, began + asked.seconds)
                found = await self._run(request, version, asked, deadline)
        record.facts |= {
            "queued": found.queued,
            "ran": found.ran,
            "batch": found.requests,
            "rows": found.rows,
        }
        size = sum(array.nbytes for array in found.outputs.values())
        content, headers = await self._without_blocking(
            size, lambda: responses.encode(asked, model, version.number, found.outputs)
        )
        return Response(content, headers=headers)

    async def _run(
        self,
        request: Request,
        version: Version,
        asked: requests.InferenceRequest,
        deadline: float,
    ) -> Answer:
        """Let the model run it, as long as somebody waits for the answer."""
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise late()
        answer = version.submit(asked.inputs, deadline)
        async with _gone(request) as gone:
            try:
                waited: set[asyncio.Future[Any]] = {answer, gone}
                await asyncio.wait(waited, timeout=left, return_when="FIRST_COMPLETED")
                if answer.done():
                    return answer.result()
                if gone.done():
                    raise ClientDisconnect
                raise late()
            finally:
                answer.cancel()

    async def _without_blocking(self, size: int, work: Callable[[], T]) -> T:
        """Do what takes long, since so many bytes are large, beside everything else."""
        if size < _LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)


def refusal(problem: Problem) -> Response:
    """The answer that says what the problem is."""
    return responses.Json({"error": problem.message}, problem.status, problem.headers)


@asynccontextmanager
async def _gone(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends when the client goes away."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(wait())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _seconds_of(request: Request, most: float) -> float:
    given = request.headers.get(TIMEOUT)
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise malformed(f"{TIMEOUT} is no number of seconds above 0.")
    return min(seconds, most)


def _json_size(request: Request) -> int | None:
    given = request.headers.get(responses.JSON_SIZE)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 16):
        raise malformed(f"{responses.JSON_SIZE} is no number of bytes.")
    return int(given)


def _shown(array: np.ndarray) -> dict[str, Any]:
    values = [
        each.decode(errors="replace") if isinstance(each, bytes) else each
        for each in array.ravel()[:_LOGGED].tolist()
    ]
    return {"shape": list(array.shape), "values": values}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
