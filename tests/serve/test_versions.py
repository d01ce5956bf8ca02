"""New versions, corrupted ones, and those that go."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from server_process import Server, put, wait_until


def test_switches_under_load_lose_nothing_and_mix_nothing(server: Server) -> None:
    """Four clients ask without a pause while the version changes three times."""
    server.add("changing", 1, plus=1, sleep=0.005)
    stop = threading.Event()

    def ask(client: int) -> list[tuple[int, float]]:
        found = []
        while not stop.is_set():
            value = client + len(found) % 7
            version, y = server.y("changing", [[value], [value]])
            first, second = y.ravel() - 2 * value
            assert first == second  # one version for all rows
            found.append((int(version), first))
        return found

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, 10 * i) for i in range(4)]
        for version in (2, 3):
            server.add("changing", version, plus=version, sleep=0.005)
            server.wait_for("let_go", model="changing", version=version - 1)
        server.remove("changing", 3)  # back to the one before
        server.wait_for("serving", model="changing", version=2, before=3)
        server.wait_for("let_go", model="changing", version=3)
        stop.set()
        answers = [each for client in clients for each in client.result()]
    assert all(version == plus for version, plus in answers)
    assert {version for version, _ in answers} == {1, 2, 3}
    # Nobody has to be told to stop: the processes of the others have ended.
    workers = psutil.Process(server.process.pid).children()
    serving = sum(int(server.figure("ready", model=m)) for m in ("adder", "slow", "text", "mean"))
    assert len(workers) <= serving + 4  # those of other tests' models


# That a runtime raises an error is also in test_command.py, with a real one.
@pytest.mark.parametrize("fault", ["crash", pytest.param("raise", marks=pytest.mark.long)])
def test_a_corrupted_version_takes_nothing_down(server: Server, fault: str) -> None:
    model = f"spoilt_{fault}"
    server.add(model, 1, plus=1)
    server.put(model, 2, load=fault)
    line = server.wait_for("load_failed", model=model, version=2)
    assert line["serving"] == 1
    why = {"raise": "this model is corrupted", "crash": "SIGSEGV"}[fault]
    assert why in line["why"]
    assert server.y(model, [[1.0]])[0] == "1"
    status, _, state = server.request("GET", f"/v2/models/{model}/ready")
    assert (status, state["ready"], state["version"]) == (200, True, "1")
    assert why in state["failed"]["2"]
    status, _, state = server.request("GET", f"/v2/models/{model}/versions/2/ready")
    assert (status, state["ready"]) == (503, False)
    assert server.figure("failed_versions", model=model) == 1
    assert server.figure("failed_loads_total", model=model) == 1
    # Mended, it is loaded, without being asked for.
    server.remove(model, 2)
    server.add(model, 2, plus=2)
    assert server.y(model, [[1.0]])[1].item() == 4


def test_a_model_that_never_worked_is_not_ready(server: Server) -> None:
    (server.folder / "empty" / "1").mkdir(parents=True)
    server.wait_for("load_failed", model="empty")
    status, _, answer = server.infer("empty", [[1.0]])
    assert status == 503
    assert "there is no SavedModel in it" in answer["error"]
    assert server.request("GET", "/v2/models/empty/ready")[0] == 503
    # The others are not its business.
    assert server.request("GET", "/v2/health/ready")[0] == 200


def test_names_of_files_that_are_no_text(server: Server) -> None:
    folder = os.fsencode(server.folder / "nameless" / "1")
    os.makedirs(folder)
    for name in (b"\xfe.onnx", b"\xff.onnx"):
        open(os.path.join(folder, name), "w").close()
    server.wait_for("load_failed", model="nameless")
    status, _, answer = server.request("GET", "/v2/models/nameless/ready")
    assert (status, answer["ready"]) == (503, False)
    assert "several models in it: \udcfe.onnx" in answer["failed"]["1"]
    status, _, answer = server.infer("nameless", [[1.0]])
    assert status == 503
    assert "several models" in answer["error"]


def test_a_first_request_of_ones_own(server: Server) -> None:
    """It takes the place of one that is made up, and decides whether a version may serve."""
    copying = server.folder / "first" / "1.copying"
    copying.mkdir(parents=True)
    (copying / "model.onnx").write_text("{}")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [666]}
    (copying / "first_request.json").write_text(json.dumps({"inputs": [tensor]}))
    copying.rename(copying.with_name("1"))
    assert "666" in server.wait_for("load_failed", model="first")["why"]
    tensor["data"] = [1]
    (server.folder / "first/1/first_request.json").write_text(json.dumps({"inputs": [tensor]}))
    server.wait_for("serving", model="first", version=1)


def test_a_model_whose_folder_goes_is_let_go(server: Server) -> None:
    server.add("passing", 1)
    server.remove("passing", 1)
    server.wait_for("let_go", model="passing")
    assert server.infer("passing", [[1.0]])[0] == 404


def test_a_process_that_crashes_or_hangs_is_started_again(server: Server) -> None:
    server.add("fragile", 1, plus=1)
    status, _, answer = server.infer("fragile", [[667.0]])
    assert status == 500
    assert "SIGSEGV" in answer["error"]
    # The next one waits for the new process.
    assert server.y("fragile", [[1.0]])[1].item() == 3
    server.wait_for("started_again", model="fragile")
    assert server.figure("lost_processes_total", model="fragile") == 1


@pytest.mark.long
def test_one_that_crashes_the_process_does_not_spoil_the_others(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    put(tmp_path, "m", 1, plus=1)
    server = start(batching={"wait": 1.0, "rows": 4}, running={"run": 3})
    server.wait_for("serving", model="m")
    for bad in (667, 1060):  # crashes, hangs
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda v: server.infer("m", [[v]]), (1.0, bad, 2.0, 3.0)))
        assert [status for status, _, _ in found] == [200, 500, 200, 200]
        assert [found[i][2]["outputs"][0]["data"] for i in (0, 2, 3)] == [[3], [5], [7]]


@pytest.mark.long
def test_killed_while_loading_it_leaves_nothing_and_starts_again(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    put(tmp_path, "m", 1, load="hang")
    server = start()
    server.wait_for("loading", model="m")
    wait_until(lambda: bool(psutil.Process(server.process.pid).children()))
    (worker,) = psutil.Process(server.process.pid).children()
    time.sleep(1)
    server.kill()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()
    (tmp_path / "m/1/model.onnx").write_text("{}")
    again = start()
    again.wait_for("serving", model="m", version=1)
    assert again.y("m", [[1.0]])[1].item() == 2


@pytest.mark.long
def test_a_load_that_hangs_is_ended(tmp_path: Path, start: Callable[..., Server]) -> None:
    put(tmp_path, "m", 1, plus=1)
    put(tmp_path, "m", 2, load="hang")
    server = start(running={"load": 5})
    assert "longer than 5 s" in server.wait_for("load_failed", model="m", version=2)["why"]
    server.wait_for("serving", model="m", version=1)
    wait_until(lambda: len(psutil.Process(server.process.pid).children()) == 1)


@pytest.mark.long
def test_two_workers_take_turns(tmp_path: Path, start: Callable[..., Server]) -> None:
    """While one hangs the other answers; the one that hangs is ended and started again."""
    put(tmp_path, "m", 1)
    server = start(running={"workers": 2, "run": 5}, batching={"rows": 1})
    server.wait_for("serving", model="m")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(server.infer, "m", [[1060.0]])
        found = [server.y("m", [[float(i)]])[1].item() for i in range(20)]
        assert found == [2 * i for i in range(20)]
        status, _, answer = hanging.result()
    assert status == 500
    assert "longer than 5 s" in answer["error"]
    server.wait_for("started_again", model="m")
    assert len(psutil.Process(server.process.pid).children()) == 2


@pytest.mark.long
def test_a_folder_that_goes_away_takes_nothing_along(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    put(tmp_path, "m", 1)
    server = start()
    server.wait_for("serving", model="m")
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    server.wait_for("folder_unreadable")
    assert server.y("m", [[1.0]])[1].item() == 2
    put(away, "m", 2, plus=1)
    away.rename(tmp_path)
    server.wait_for("serving", model="m", version=2)


@pytest.mark.long
def test_a_server_that_loads_can_be_stopped(tmp_path: Path, start: Callable[..., Server]) -> None:
    put(tmp_path, "m", 1, load="hang")
    server = start()
    server.wait_for("loading", model="m")
    assert server.request("GET", "/v2/health/live")[0] == 200
    assert server.request("GET", "/v2/health/ready")[0] == 503
    assert server.infer("m", [[1.0]])[0] == 503
    assert server.stop() == 0


@pytest.mark.long
def test_a_version_that_is_overwritten_with_junk_takes_nothing_down(server: Server) -> None:
    """Neither while its process still runs, nor when that dies."""
    model = "overwritten"
    for version in (1, 2):
        server.add(model, version, plus=version)
    (server.folder / model / "2/model.onnx").write_text(json.dumps({"load": "raise"}))
    server.wait_for("load_failed", model=model, version=2)
    assert server.y(model, [[1.0]])[1].item() in (3, 4)
    status, _, _ = server.infer(model, [[667.0]])  # its process crashes
    assert status == 500
    begun = time.monotonic()
    while (answered := server.infer(model, [[1.0]]))[0] == 503:
        assert "can't be started again" in answered[2]["error"]
    status, _, answer = answered
    assert (status, answer["model_version"], answer["outputs"][0]["data"]) == (200, "1", [3.0])
    assert time.monotonic() - begun < 30  # and not only after the deadlines of 60 seconds
