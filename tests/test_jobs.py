"""What jobs of Ray and Spark have in common, without either, and without ranks."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hvdkit.errors import FunctionError, HvdkitError
from hvdkit.jobs.arrow import numpy_columns
from hvdkit.jobs.keeper import Outcome
from hvdkit.jobs.membership import Membership
from hvdkit.jobs.outcomes import first_failure
from hvdkit.jobs.rendezvous import Rendezvous
from hvdkit.jobs.slots import slots_of
from hvdkit.ray.datasets import rows_of
from hvdkit.watch.report import block
from hvdkit_cli.rank import Ended

pytestmark = pytest.mark.quick


def test_the_workers_of_a_host_get_consecutive_ranks() -> None:
    slots = slots_of(["b", "a", "b", "c", "a", "b"])
    found = [
        (s.host, s.rank, s.local_rank, s.local_size, s.cross_rank, s.cross_size) for s in slots
    ]
    assert found == [
        ("b", 0, 0, 3, 0, 3),
        ("a", 3, 0, 2, 1, 3),
        ("b", 1, 1, 3, 0, 2),
        ("c", 5, 0, 1, 2, 3),
        ("a", 4, 1, 2, 1, 2),
        ("b", 2, 2, 3, 0, 1),
    ]
    assert {slot.size for slot in slots} == {6}
    assert slots[1].environment()["HOROVOD_CROSS_SIZE"] == "3"
    assert slots[1].answer() == "3,6,0,2,1,3"


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (2, 3), (0, 2), (7, 1), (9, 3)])
def test_each_row_is_one_rank_s(rows: int, size: int) -> None:
    parts = [list(rows_of(rows, rank, size)) for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def _ask(port: int, path: str, method: str = "GET", value: bytes | None = None) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", value, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def test_the_store_keeps_values_and_knows_who_is_missing() -> None:
    with Rendezvous() as store:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _ask(store.port, "global/0")
        _ask(store.port, "global/0", "PUT", b"here")
        assert _ask(store.port, "global/0") == "here"
        assert store.missing(3, limit=60) == []
        assert store.missing(3, limit=0) == [1, 2]
        _ask(store.port, "global/0", "DELETE")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _ask(store.port, "global/0")
        assert store.missing(3, limit=0) == [1, 2]


def test_workers_that_die_are_replaced_in_the_next_round() -> None:
    """Worker 0 of three dies, the others go on as two, and a fourth joins them."""
    with Membership(first=3, least=2) as job, ThreadPoolExecutor() as threads:

        def asks(*paths: str) -> list[str]:
            return [
                found.result(10)
                for found in [threads.submit(_ask, job.port, path) for path in paths]
            ]

        for worker, host in enumerate(["h1", "h1", "h2"]):
            job.add(worker, host)
        first = asks("join/0", "join/1", "join/2")
        assert ["HOROVOD_RANK=" + str(i) in text for i, text in enumerate(first)] == [True] * 3
        assert "HOROVOD_LOCAL_SIZE=2" in first[0]

        job.remove(0)
        assert asks("rank_and_size/h1:1", "rank_and_size/h2:0") == ["0,2,0,1,0,2", "1,2,0,1,1,2"]
        assert job.ranks() == {1: 0, 2: 1}

        job.add(3, "h1")
        assert asks("news/1") == ["none"]
        joining = threads.submit(_ask, job.port, "join/3")
        deadline = time.monotonic() + 10
        while asks("news/1") == ["none"]:
            assert time.monotonic() < deadline
        assert asks("news/2") == ["none"]  # rank 0 hears of it, and tells the others
        assert not joining.done()
        assert asks("rank_and_size/h1:0", "rank_and_size/h2:0") == ["0,3,0,2,0,2", "2,3,0,1,1,2"]
        assert "HOROVOD_RANK=1" in joining.result(10)
        assert job.waited() == 0


def test_fewer_workers_than_the_least_wait_and_are_named() -> None:
    with Membership(first=2, least=2) as job:
        job.add(0, "h1")
        job.add(1, "h2")
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(_ask(job.port, "join/0")))
        asking.start()
        deadline = time.monotonic() + 10
        while not job.waited():
            assert time.monotonic() < deadline
        assert job.absent() == {1: "h2"}
        job.remove(0)
        asking.join(10)
        assert answers == [""]
        assert job.waited() == 0


def test_the_failure_that_came_first_is_raised() -> None:
    ended = [
        Ended(
            None, None, 'Traceback:\n  File "a"\nhvdkit.errors.CollectiveError: rank 1 left', 1.0
        ),
        Ended(None, None, "KeyError: 'x'", 2.0),
        Ended(None, None, "ValueError: y", 3.0),
    ]
    outcomes = {rank: Outcome(1, end, "h", 7, []) for rank, end in enumerate(ended)}
    failure = first_failure(outcomes)
    assert isinstance(failure, FunctionError)
    assert failure.rank == 1
    assert str(failure) == "on rank 1 (host h):\nKeyError: 'x'"

    text = 'Traceback:\n  File "%s"\n  File "b"\nKeyError: all'
    alike = [Ended(None, None, text % rank, 3.0 - rank) for rank in range(3)]
    same = first_failure({rank: Outcome(1, end, "h", 7, []) for rank, end in enumerate(alike)})
    assert isinstance(same, FunctionError)
    assert same.rank == 0, "of those that raised the same, whoever was quicker"

    silent = {0: Outcome(1, None, "h", 7, ["said"]), 1: Outcome(-9, None, "h", 8, ["last"])}
    told = "rank 1 (host h, pid 8) was ended by signal 9 (SIGKILL), without a result; it printed"
    assert told in str(first_failure(silent))
    lost = {0: outcomes[0], 1: Outcome(1, None, "h2", 0, ["its node is gone"])}
    assert str(first_failure(lost)) == "rank 1 (host h2) was lost:\nits node is gone"
    box = block("rank 1 (host h, pid 8) ended with exit status 3.").splitlines()
    watched = first_failure({rank: Outcome(3, None, "h", 7, box * rank) for rank in range(2)})
    assert isinstance(watched, FunctionError)
    assert (str(watched), watched.rank) == ("rank 1 (host h, pid 8) ended with exit status 3.", 1)
    assert first_failure({0: Outcome(0, Ended(b"", None, "", 1.0), "h", 7, [])}) is None


def test_columns_of_arrow() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "number": pa.chunked_array([[1, 2], [3]], pa.int16()),
            "flag": [True, False, True],
            "text": ["a", "b", "c"],
            "list": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
            "matrix": [[[1], [2]], [[3], [4]], [[5], [6]]],
            "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
        }
    )
    found = numpy_columns(table.slice(1))
    assert found["number"].dtype == np.int16
    assert found["number"].tolist() == [2, 3]
    assert found["flag"].tolist() == [False, True]
    assert found["text"].tolist() == ["b", "c"]
    assert found["list"].tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert found["matrix"].tolist() == [[[3], [4]], [[5], [6]]]
    assert found["fixed"].tolist() == [[3, 4], [5, 6]]
    for values, message in (
        ([1, None], "column 'c' holds 1 nulls"),
        ([[1], [1, 2]], "column 'c' holds lists of 1 to 2 values"),
        ([[1], [None]], "column 'c' holds 1 nulls"),
        ([{"a": 1}], "column 'c' has the type struct<a: int64>"),
    ):
        with pytest.raises(HvdkitError, match=message):
            numpy_columns(pa.table({"c": values}))
