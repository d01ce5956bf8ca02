"""Traces: the readers, the file, and steps of real ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from checks.trace.files import TraceFile
from rank_checks import Check
from rank_pool import RankPools

JOBS = [("trace", "mpi", 2)]
LONG_JOBS = [("trace", "gloo", 2), ("trace", "mpi", 3), ("trace_pipeline", "mpi", 2)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.quick
def test_what_only_overlaps_goes_to_threads_of_its_own(tmp_path: Path) -> None:
    from hvdkit.monitoring.trace.chrome import Process, chrome_trace, write
    from hvdkit.watch.slices import Slice

    inner = (Slice("a", "inner", 2.0, 2.5), Slice("a", "longer than what it is in", 2.5, 3.1))
    slices = [
        Slice("a", "first", 1.0, 2.0),
        Slice("a", "second", 2.0, 3.0, {"bytes": 3}, inner),
        Slice("a", "beside the first", 1.5, 2.25),
        Slice("z", "of the first track", 1.0, 1.25),
    ]
    trace = chrome_trace([Process("rank 0", "host", slices)], ["z"], {"ranks": 1})
    write(trace, tmp_path / "trace.json.gz")
    file = TraceFile(tmp_path / "trace.json.gz")  # sees that it is valid
    assert file.about == {"ranks": 1, "begins": 1.0}
    assert file.threads("rank 0") == {"z", "a", "a (2)"}
    assert file.names("rank 0", "a") == [
        "first",
        "beside the first",
        "second",
        *(each.name for each in inner),
    ]
    threads = {each["name"]: each["tid"] for each in file.slices}
    assert threads["first"] == threads["second"] == threads["inner"] == 2
    assert (threads["of the first track"], threads["beside the first"]) == (1, 3)
    [second] = [each for each in file.slices if each["name"] == "second"]
    assert (second["ts"], second["dur"], second["args"]) == (1e6, 1e6, {"bytes": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


# As Horovod 0.28.1 writes it.
TIMELINE = """[
{"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros":5000000}},
{"name": "process_sort_index", "ph": "M", "pid": 0, "args": {"sort_index": 0}},
{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "bucket0"}},
{"name": "process_sort_index", "ph": "M", "pid": 1, "args": {"sort_index": 1}},
{"ph": "B", "name": "NEGOTIATE_ALLREDUCE", "ts": 100, "pid": 1},
{"ph": "X", "name": "1", "ts": 110, "pid": 1, "dur": 0},
{"ph": "X", "name": "0", "ts": 150, "pid": 1, "dur": 0},
{"ph": "E", "ts": 160, "pid": 1},
{"ph": "i", "name": "CYCLE_START", "ts": 165, "s": "g"},
{"ph": "B", "name": "ALLREDUCE", "ts": 170, "pid": 1},
{"ph": "B", "name": "MPI_ALLREDUCE", "ts": 180, "pid": 1},
{"ph": "E", "ts": 190, "pid": 1},
{"ph": "E", "ts": 200, "pid": 1, "args": {"dtype": "float32", "shape": "[10]"}},
{"ph": "B", "name": "NEGOTIATE_ALLREDUCE", "ts": 300, "pid": 1}]"""


@pytest.mark.quick
def test_horovods_timeline_is_read() -> None:
    from hvdkit.monitoring.trace.horovod_timeline import read_timeline

    [found] = read_timeline(TIMELINE)
    assert (found.name, found.begin, found.end) == ("bucket0", 5.0001, 5.0002)
    negotiation, operation = found.inside
    assert (negotiation.name, negotiation.end) == ("NEGOTIATE_ALLREDUCE", 5.00016)
    assert negotiation.details == {
        "rank 1 ready after s": 0.00001,
        "rank 0 ready after s": 0.00005,
    }
    assert operation.details == {"dtype": "float32", "shape": "[10]"}
    assert [part.name for part in operation.inside] == ["MPI_ALLREDUCE"]


@pytest.mark.quick
def test_a_timeline_that_ends_anywhere() -> None:
    from hvdkit.monitoring.trace.horovod_timeline import read_timeline

    assert read_timeline("") == []
    for end in range(len(TIMELINE)):
        assert len(read_timeline(TIMELINE[:end])) <= 1
    assert len(read_timeline(TIMELINE[: TIMELINE.index("[10]") + 7])) == 1
    json.loads(TIMELINE)


@pytest.mark.quick
def test_where_the_backward_pass_begins() -> None:
    """Operations that come early or late do not move it."""
    from hvdkit.monitoring.trace.profile import Profile
    from hvdkit.watch.slices import Slice

    def operation(name: str, begin: float, end: float) -> Slice:
        return Slice("TensorFlow", name, begin, end, {"operation": name})

    back = "call/gradient_tape/model/dense/MatMul:MatMul"
    profile = Profile(
        operations=[
            operation("call/gradient_tape/model/dense/Shape:Shape", 1.0, 1.01),
            operation("call/model/dense/MatMul:MatMul", 1.0, 2.0),
            operation(back, 2.0, 3.0),
            operation("call/model/metrics/Sum:Sum", 2.1, 2.2),
            operation("call/adam/Square:Square", 2.2, 2.9),
            operation(back, 3.0, 4.0),
            operation("call/adam/Sub:Sub", 4.5, 5.0),
        ]
    )
    assert profile.split_of(1.0, 4.0) == 2.0
    assert profile.gradients_in(1.0, 9.0) == 4.0
    assert profile.end_in(1.0, 9.0) == 5.0
    eager = replace(profile, operations=[operation("MatMul:MatMul", 1.0, 2.0)])
    assert eager.split_of(1.0, 4.0) is None


@pytest.mark.quick
def test_clocks_that_drift_are_put_right() -> None:
    from hvdkit.monitoring.trace.alignment import Comparison, corrected_by
    from hvdkit.watch.slices import Slice

    corrected = corrected_by(Comparison(100.0, 10.0), Comparison(200.0, 11.0))
    inner = Slice("a", "inner", 150.0, 200.0)
    found = corrected(Slice("a", "outer", 100.0, 200.0, {}, (inner,)))
    assert (found.begin, found.end) == pytest.approx((90.0, 189.0))
    assert (found.inside[0].begin, found.inside[0].end) == pytest.approx((139.5, 189.0))


@pytest.mark.quick
@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (1, 1001), (1,), 7, ("1", "2"), (True, 2)])
def test_steps_that_are_none(steps: object, tmp_path: Path) -> None:
    from hvdkit.monitoring.trace.steps import checked_steps

    with pytest.raises(ValueError, match=r"steps of hvd\.trace"):
        checked_steps(steps)
