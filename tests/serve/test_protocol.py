"""The Open Inference Protocol, asked by NVIDIA's client and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.http as triton
from server_process import Server, asked, wait_until
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def client(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{server.port}")


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("binary", [True, False])
def test_numbers_by_tritons_client(client: triton.InferenceServerClient, binary: bool) -> None:
    x = rows(3, 5)
    given = triton.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x, binary)
    found = client.infer("adder", [given], request_id="42")  # asks for binary outputs by default
    np.testing.assert_array_equal(found.as_numpy("y"), 2 * x + 1)
    assert found.get_response()["id"] == "42"
    assert found.get_response()["model_version"] == "1"
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    found = client.infer("adder", [given], model_version="1", outputs=wanted)
    np.testing.assert_array_equal(found.as_numpy("y"), 2 * x + 1)
    assert "data" in found.get_output("y")


@pytest.mark.parametrize("binary", [True, False])
def test_text_by_tritons_client(client: triton.InferenceServerClient, binary: bool) -> None:
    words = np.array([["grün"], [""], ["a,b\n"]], object)
    given = triton.InferInput("words", [3, 1], "BYTES").set_data_from_numpy(words, binary)
    wanted = [triton.InferRequestedOutput("words", binary_data=binary)]
    found = client.infer("text", [given], outputs=wanted).as_numpy("words")
    texts = [each.decode() if binary else each for each in found.ravel()]
    assert texts == ["GRÜN", "", "A,B\n"]


def test_what_there_is(client: triton.InferenceServerClient) -> None:
    wait_until(client.is_server_ready)
    assert client.is_server_live()
    assert client.is_model_ready("adder")
    assert client.is_model_ready("adder", "1")
    assert not client.is_model_ready("adder", "2")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server["name"] == "hvdkit"
    assert server["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("text") == {
        "name": "text",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "words", "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [{"name": "words", "datatype": "BYTES", "shape": [-1, 1]}],
    }


def test_extensions_that_are_not_declared_are_refused(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(rows(1, 2))
    with pytest.raises(InferenceServerException, match="priority"):
        client.infer("adder", [given], priority=1)
    with pytest.raises(InferenceServerException, match="sequence_id"):
        client.infer("adder", [given], sequence_id=7)
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer("adder", [given], outputs=[triton.InferRequestedOutput("y", class_count=3)])
    with pytest.raises(InferenceServerException, match="compressed"):
        client.infer("adder", [given], request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="Not Found"):
        client.get_model_repository_index()


def test_a_nested_list_and_a_flat_one_are_the_same(server: Server) -> None:
    body = asked([[1, 2], [3, 4]])
    body["inputs"][0]["data"] = [[1, 2], [3, 4]]
    status, headers, answer = server.request("POST", "/v2/models/adder/infer", body)
    assert status == 200
    assert answer["outputs"][0]["data"] == [3, 5, 7, 9]
    assert headers["content-type"] == "application/json"


def test_what_json_can_not_carry_is_said(server: Server) -> None:
    huge = [[3e38]]  # twice as much is infinite
    status, _, answer = server.infer("adder", huge)
    assert status == 406
    assert "binary_data" in answer["error"]
    binary = {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    status, headers, _ = server.request("POST", "/v2/models/adder/infer", asked([[1]], **binary))
    assert status == 200
    assert int(headers["inference-header-content-length"]) > 0


def test_addresses_that_there_are_not(server: Server) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v2/models/adder/infer", 405),
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/adder/versions/9/infer", 404),
        ("POST", "/v2/models/adder/versions/one/infer", 404),
        ("GET", "/v2/models/..%2f..%2fetc/ready", 404),
    ):
        found, _, answer = server.request(method, path, {} if method == "POST" else None)
        assert found == status, path
        assert answer["error"], path


def test_the_log_and_the_figures_tell_it_without_inputs(server: Server) -> None:
    before = server.figure("requests_total", model="adder", code="200")
    _, headers, _ = server.infer("adder", [[123456.5]], id="someone@example.org")
    line = server.wait_for("request", request=headers["x-request-id"])
    assert (line["model"], line["version"], line["code"], line["rows"]) == ("adder", 1, 200, 1)
    assert {"queued", "ran", "batch", "seconds"} <= line.keys()
    assert "123456.5" not in str(server.lines)
    assert "someone" not in str(server.lines)
    assert server.figure("requests_total", model="adder", code="200") == before + 1
    assert server.figure("version", model="adder") == 1
    assert server.figure("run_seconds_count", model="adder") >= 1
