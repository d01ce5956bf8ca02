"""The queue of a version, and the batches that are made of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hvdkit.serving.problems import Problem, late, stopping
from hvdkit.serving.settings import Batching

Arrays = Mapping[str, np.ndarray]

_SMOOTHING = 0.2  # weight of the last batch in the mean of seconds
_LONGEST_RETRY = 60


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        outputs: of its own rows.
        queued: seconds that it waited.
        ran: seconds that the model took for its batch.
        requests: in that batch.
        rows: in that batch.
    """

    outputs: Arrays
    queued: float
    ran: float
    requests: int
    rows: int


@dataclass(eq=False)
class Waiting:
    """A request that waits to be run.

    Attributes:
        inputs: an array for each input of the model.
        deadline: when its answer is of no more use, on the loop's clock.
        answer: an `Answer`, or the problem; cancelled by those who no longer wait for it.
        since: when it came, on the loop's clock.
        rows: of its inputs; None where they do not agree.
        kind: what requests have to have in common to be run together.
    """

    inputs: Arrays
    deadline: float
    answer: asyncio.Future[Answer]
    since: float
    rows: int | None = field(init=False)
    kind: object = field(init=False)

    def __post_init__(self) -> None:
        rows = {array.shape[0] if array.ndim else None for array in self.inputs.values()}
        self.rows = rows.pop() if len(rows) == 1 else None
        self.kind = tuple((name, array.shape[1:]) for name, array in sorted(self.inputs.items()))

    def fail(self, problem: BaseException) -> None:
        """Answer with a problem, if anybody waits."""
        if not self.answer.done():
            self.answer.set_exception(problem)


class Queue:
    """Requests that wait for a version, in the order in which they came.

    Args:
        batching: its limits.
        together: whether requests may be put into one batch.
    """

    def __init__(self, batching: Batching, together: bool) -> None:
        self._batching = batching
        self._together = together
        self._waiting: dict[Waiting, None] = {}  # keeps order, and gives up any of them at once
        self._came = asyncio.Event()
        self._closed = False
        self._seconds = 0.1  # that a batch takes

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, inputs: Arrays, deadline: float) -> asyncio.Future[Answer]:
        """Let a request wait.

        Args:
            inputs: an array for each input of the model.
            deadline: when its answer is of no more use, on the loop's clock.

        Returns:
            The answer to come; cancel it when nobody waits for it any more.

        Raises:
            Problem: the queue is full (429), or closed (503).
        """
        if self._closed:
            raise stopping()
        if len(self._waiting) >= self._batching.queue:
            raise Problem(
                429,
                "queue_full",
                f"{len(self._waiting)} requests wait already: try again later.",
                {"Retry-After": str(self._retry_after())},
            )
        loop = asyncio.get_running_loop()
        waiting = Waiting(inputs, deadline, loop.create_future(), loop.time())
        self._waiting[waiting] = None
        waiting.answer.add_done_callback(lambda _: self._waiting.pop(waiting, None))
        self._came.set()
        return waiting.answer

    async def get(self) -> list[Waiting]:
        """Wait for a batch: requests of one kind that somebody still waits for."""
        first = await self._first()
        batch = [first]
        try:
            await self._fill(batch)
        except BaseException:  # the server stops
            for each in batch:
                each.fail(stopping())
            raise
        return [each for each in batch if not each.answer.done()] or await self.get()

    def took(self, seconds: float) -> None:
        """Note how long a batch took."""
        self._seconds += _SMOOTHING * (seconds - self._seconds)

    def close(self) -> None:
        """Take no more requests; those that wait are still given."""
        self._closed = True
        self._came.set()

    def fail_all(self, problem: Problem) -> None:
        """Answer all that wait with a problem."""
        for waiting in list(self._waiting):
            waiting.fail(problem)

    async def _first(self) -> Waiting:
        loop = asyncio.get_running_loop()
        while True:
            for waiting in list(self._waiting):
                del self._waiting[waiting]
                if waiting.answer.done():
                    continue
                if waiting.deadline <= loop.time():
                    waiting.fail(late("the deadline has passed before the model could begin."))
                    continue
                return waiting
            self._came.clear()
            await self._came.wait()

    async def _fill(self, batch: list[Waiting]) -> None:
        """Add requests of the first one's kind, those that come soon included."""
        first, loop = batch[0], asyncio.get_running_loop()
        if not self._together or first.rows is None:
            return
        rows, end = first.rows, first.since + self._batching.wait
        while True:
            rows += self._take(first, batch, rows)
            left = end - loop.time()
            if rows >= self._batching.rows or left <= 0 or self._closed:
                return
            self._came.clear()
            try:
                async with asyncio.timeout(left):
                    await self._came.wait()
            except TimeoutError:
                return

    def _take(self, first: Waiting, batch: list[Waiting], rows: int) -> int:
        """Move what fits to the first one from the queue to the batch; how many rows that were."""
        taken = 0
        now = asyncio.get_running_loop().time()
        for waiting in list(self._waiting):
            if waiting.kind != first.kind or waiting.rows is None or waiting.deadline <= now:
                continue
            if rows + taken + waiting.rows > self._batching.rows:
                continue
            del self._waiting[waiting]
            batch.append(waiting)
            taken += waiting.rows
        return taken

    def _retry_after(self) -> int:
        rows = self._batching.rows if self._together else 1
        seconds = self._seconds * math.ceil(len(self._waiting) / max(rows, 1))
        return min(max(1, math.ceil(seconds)), _LONGEST_RETRY)


def joined(batch: Sequence[Waiting]) -> Arrays:
    """The inputs of a batch."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([each.inputs[name] for each in batch]) for name in batch[0].inputs}


def divide(batch: Sequence[Waiting], outputs: Arrays, ran: float, began: float) -> bool:
    """Give each request of a batch its own rows.

    Args:
        batch: the requests, in the order of their rows.
        outputs: of the whole batch.
        ran: seconds that the model took.
        began: when it did, on the loop's clock.

    Returns:
        Whether the outputs have a row for each row of the inputs; if not, nobody got any.
    """
    sizes = [each.rows or 0 for each in batch]
    rows = sum(sizes)
    if len(batch) > 1 and any(a.ndim == 0 or len(a) != rows for a in outputs.values()):
        return False
    begin = 0
    for each, size in zip(batch, sizes, strict=True):
        own = outputs
        if len(batch) > 1:
            own = {name: array[begin : begin + size] for name, array in outputs.items()}
        begin += size
        if not each.answer.done():
            each.answer.set_result(Answer(own, began - each.since, ran, len(batch), rows))
    return True
