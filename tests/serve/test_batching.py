"""Requests that are put together, and those that must not be."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from server_process import Server, answer_of, asked, wait_until

from hvdkit.serving.batching import Queue, divide, joined
from hvdkit.serving.problems import Problem
from hvdkit.serving.settings import Batching


def at_once(work: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Call something with each of these at the same time."""
    start = threading.Barrier(len(arguments))

    def call(each: tuple[Any, ...]) -> Any:
        start.wait(30)
        return work(*each)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))


def test_each_request_gets_its_own_rows(server: Server) -> None:
    before = server.figure("batch_requests_count", model="slow")
    x = [np.arange(3 * rows, dtype="float32").reshape(rows, 3) + 100 * rows for rows in (1, 2, 3)]
    x += [each + 0.5 for each in x] + [np.ones((2, 4), "float32")]  # of another shape
    found = at_once(server.y, [("slow", each) for each in x])
    for given, (_, y) in zip(x, found, strict=True):
        np.testing.assert_array_equal(y, 2 * given)
    # Not by one batch each, and not all in one.
    assert 2 <= server.figure("batch_requests_count", model="slow") - before < len(x)


def test_a_bad_request_does_not_spoil_the_others(server: Server) -> None:
    found = at_once(server.infer, [("slow", [[value]]) for value in (1, 666, 2, 3)])
    assert [status for status, _, _ in found] == [200, 500, 200, 200]
    assert [found[i][2]["outputs"][0]["data"] for i in (0, 2, 3)] == [[2], [4], [6]]
    assert "666" in found[1][2]["error"]
    assert "there is a 666" not in str(server.lines)  # what the runtime says is the client's
    assert server.figure("divided_batches_total", model="slow") >= 1


def test_rows_of_strangers_are_not_mixed_where_the_model_does_it(server: Server) -> None:
    """`mean` adds the mean of its batch: it is found out, and gets each request alone."""
    why = server.wait_for("loaded", model="mean")
    assert not why["batches"]
    assert "depends on the other rows" in why["single"]
    found = at_once(server.y, [("mean", [[float(value)]]) for value in range(4)])
    assert [y.item() for _, y in found] == [0, 3, 6, 9]


def test_a_full_queue_says_when_to_come_again(server: Server) -> None:
    found = at_once(server.infer, [("slow", np.full((8, 2), i)) for i in range(24)])
    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 429}
    for i, (status, headers, answer) in enumerate(found):
        if status == 429:
            assert int(headers["retry-after"]) >= 1
        else:
            assert set(answer["outputs"][0]["data"]) == {2 * i}


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """The model `adder` runs for a second, and for another one for what is in its queue."""
    with ThreadPoolExecutor(2) as pool:
        # Of two shapes, which do not come together.
        both = ([[1001.0]], [[1001.0, 1.0]])
        running = [pool.submit(server.infer, "adder", rows) for rows in both]
        wait_until(lambda: server.figure("waiting_requests", model="adder") == 1)
        yield
        assert not all(each.done() for each in running)
        assert [each.result()[0] for each in running] == [200, 200]


def test_a_deadline_is_kept_and_late_work_is_not_begun(server: Server) -> None:
    ran = server.figure("batch_rows_sum", model="adder")
    with busy(server):
        late = [[5.0] * 3]  # of a third shape: it can't come along with the first one
        status, _, answer = server.infer("adder", late, {"X-Request-Timeout": "0.05"})
        assert (status, answer) == (504, {"error": "the deadline has passed."})
        assert server.infer("adder", late, parameters={"timeout": 50_000})[0] == 504
    assert server.figure("batch_rows_sum", model="adder") == ran + 2
    for wrong in ("0", "-1", "nan", "soon"):
        assert server.infer("adder", [[1]], {"X-Request-Timeout": wrong})[0] == 400


def test_work_that_nobody_waits_for_is_not_begun(server: Server) -> None:
    ran = server.figure("batch_rows_sum", model="adder")
    gone = server.figure("refused_total", reason="gone")
    with busy(server):
        server.raw(whole_request([[7.0] * 3])).close()
        wait_until(lambda: server.figure("refused_total", reason="gone") > gone)
    assert server.figure("batch_rows_sum", model="adder") == ran + 2


def test_health_is_told_while_a_model_runs(server: Server) -> None:
    with busy(server):
        assert server.request("GET", "/v2/health/live")[0] == 200
        assert server.request("GET", "/v2/models/adder/ready")[0] == 200


def whole_request(rows: Any, *more: str) -> bytes:
    """A request to `adder` as bytes."""
    body = json.dumps(asked(rows))
    lines = ["POST /v2/models/adder/infer HTTP/1.1", "Host: h", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *more, "", body]).encode()


def test_pipelined_requests_get_answers_in_their_order(server: Server) -> None:
    requests = [
        whole_request([[1]]),
        whole_request([[2]]),
        whole_request([[3]], "Connection: close"),
    ]
    data = b"".join(requests)
    answers = answer_of(server.raw(data))
    positions = [answers.index(b'"data":[%d.0]' % y) for y in (3, 5, 7)]
    assert positions == sorted(positions)


@pytest.mark.quick
def test_a_queue_by_itself() -> None:
    """What is put together, in which order, and what is left."""

    async def play() -> None:
        queue = Queue(Batching(rows=4, wait=0.0, queue=6), together=True)
        end = asyncio.get_running_loop().time() + 60

        def put(rows: int, width: int = 1) -> asyncio.Future:
            return queue.put({"x": np.full((rows, width), rows, "float32")}, end)

        first, _, wide, gone, big = put(1), put(2), put(1, width=2), put(1), put(9)
        gone.cancel()
        await asyncio.sleep(0)
        batch = await queue.get()
        assert [each.rows for each in batch] == [1, 2]
        assert joined(batch)["x"].ravel().tolist() == [1, 2, 2]
        assert not divide(batch, {"y": np.zeros((4, 1))}, 0.1, 0)  # a row too many: nobody gets any
        assert not first.done()
        assert divide(batch, {"y": np.arange(3)}, 0.1, 0)
        assert (await first).outputs["y"].tolist() == [0]
        assert [each.answer for each in await queue.get()] == [wide]
        assert [each.answer for each in await queue.get()] == [big]
        for _ in range(6):
            put(1)
        with pytest.raises(Problem) as full:
            put(1)
        assert full.value.status == 429
        late = asyncio.get_running_loop().time() - 1
        assert len(await queue.get()) == 4
        passed = queue.put({"x": np.ones((1, 1))}, late)
        assert len(await queue.get()) == 2
        queue.close()
        with pytest.raises(Problem):
            put(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.05)
        assert passed.exception().status == 504

    asyncio.run(play())
