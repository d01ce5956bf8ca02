"""`hvdkit serve`: real models behind TLS and tokens, and what it refuses to start with."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from launch import ROOT
from onnx import TensorProto, helper
from server_process import Server, asked, put, wait_until

from hvdkit.serving import access
from hvdkit_cli.errors import CommandError
from hvdkit_cli.main import cli

WRONG_TOKENS = (
    *(None, "", "Bearer", "Bearer ", "first-token", "Basic first-token"),
    *("Bearer first-toke", "Bearer first-tokenx", "Bearer first-token second-token"),
)
HVDKIT = [sys.executable, "-m", "hvdkit_cli.main", "serve"]


def linear_model(path: Path, factor: float) -> None:
    """y = factor * x, of any number of rows of three, as ONNX."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3])

    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    graph = helper.make_graph([node], "linear", [value("x")], [value("y")], [constant])
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, a certificate, and two tokens; and no TensorFlow that can be used."""
    folder = tmp_path_factory.mktemp("serve")
    linear_model(folder / "models/linear/1/model.onnx", 2.0)
    certificate(folder)
    private(folder / "tokens", "first-token\nsecond-token\n")
    for package in ("tensorflow", "keras", "horovod", "mpi4py"):
        (folder / "broken" / package).mkdir(parents=True)
        broken = folder / "broken" / package / "__init__.py"
        broken.write_text(f'raise ImportError("no {package} here")')
    return folder


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Server]:
    """`hvdkit serve` with TLS and tokens, for whom there is no TensorFlow."""
    options = ["--port", "0", "--token-file", "tokens", "--cert", "cert.pem", "--key", "key.pem"]
    paths = [str(folder / each) if each[0].isalpha() else each for each in options]
    env = {"PYTHONPATH": f"{folder / 'broken'}{os.pathsep}{ROOT}"}
    server = Server([*HVDKIT, str(folder / "models"), *paths], folder / "models", env)
    try:
        server.wait_for("serving", model="linear", version=1)
        yield server
    finally:
        server.kill()


def ask(server: Server, path: str, token: str | None, body: Any = None) -> tuple[int, Any, str]:
    """Ask over TLS, with the certificate checked."""
    context = ssl.create_default_context(cafile=server.folder.parent / "cert.pem")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data)
    if token is not None:
        request.add_header("Authorization", token)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_a_real_model_with_tls_and_tokens(secure: Server) -> None:
    assert secure.url.startswith("https://")
    path = "/v2/models/linear/infer"
    for token in ("first-token", "second-token"):
        status, _, text = ask(secure, path, f"Bearer {token}", asked([[1, 2, 3]]))
        assert status == 200, text
        assert json.loads(text)["outputs"][0]["data"] == [2, 4, 6]
    for token in WRONG_TOKENS:
        for address in (path, "/v2", "/v2/models/linear", "/v2/models/linear/ready", "/metrics"):
            status, headers, _ = ask(secure, address, token, {} if address == path else None)
            assert status == 401, (token, address)
            assert headers["WWW-Authenticate"] == "Bearer"
    assert ask(secure, "/v2/health/live", None)[0] == 200
    assert ask(secure, "/v2/health/ready", None)[0] == 200
    assert ask(secure, "/v2/health/../models/linear", None)[0] in (401, 404)
    assert "first-token" not in str(secure.lines)
    with pytest.raises(OSError, match=r"reset|closed|Remote end|\[Errno"):
        urllib.request.urlopen(secure.url.replace("https", "http"), timeout=60).read()


def test_a_file_that_is_cut_off_takes_nothing_down(secure: Server, tmp_path: Path) -> None:
    linear_model(tmp_path / "2/model.onnx", 3.0)
    whole = (tmp_path / "2/model.onnx").read_bytes()
    (tmp_path / "2/model.onnx").write_bytes(whole[: len(whole) // 2])
    os.rename(tmp_path / "2", secure.folder / "linear/2")
    assert secure.wait_for("load_failed", model="linear", version=2)["serving"] == 1
    status, _, text = ask(
        secure, "/v2/models/linear/infer", "Bearer first-token", asked([[1, 2, 3]])
    )
    assert (status, json.loads(text)["model_version"]) == (200, "1")
    (secure.folder / "linear/2/model.onnx").write_bytes(whole)  # mended in place
    secure.wait_for("serving", model="linear", version=2)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, each by the function that is made for it, whatever the first one says."""
    seen = []

    def compare(given: bytes, token: bytes) -> bool:
        seen.append(token)
        return given == token

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    guard = access.Access(None, ["a", "b"], None)
    assert guard._is_allowed({"headers": [(b"authorization", b"Bearer a")]})
    assert seen == [b"a", b"b"]


def test_sigterm_finishes_what_runs_and_refuses_the_rest(start: Any, tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    server = start(batching={"rows": 1})
    server.wait_for("serving", model="m")
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(server.y, "m", [[value]]) for value in (1001.5, 1001.0)]
        wait_until(lambda: server.figure("waiting_requests", model="m") == 1)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        server.wait_for("stopping")
        assert [each.result()[1].item() for each in running] == [2003, 2002]
        with pytest.raises(OSError):  # noqa: PT011 (refused, or reset)
            server.y("m", [[1.0]])
        stopping.join()
    assert server.process.returncode == 0
    server.wait_for("stopped")


def refused(*arguments: object) -> CommandError:
    """What the command says; it ends before anything is served."""
    result = CliRunner().invoke(cli, ["serve", *map(str, arguments)])
    assert isinstance(result.exception, CommandError), result.output
    return result.exception


@pytest.mark.quick
def test_what_it_refuses_to_start_with(folder: Path, tmp_path: Path) -> None:
    models = folder / "models"
    missing = tmp_path / "missing"
    assert f"{missing} can't be read" in refused(missing).message
    assert "holds no model" in refused(tmp_path).message
    assert "models/digits/1/model.onnx" in refused(tmp_path).remedy
    assert "holds no model" in refused(models / "linear").message  # a level too deep
    assert "can't be read: Not a directory" in refused(folder / "tokens").message
    linear_model(tmp_path / "flat" / "model.onnx", 1.0)  # no version
    assert "holds no model" in refused(tmp_path).message
    open_file = private(tmp_path / "open", "token\n")
    open_file.chmod(0o644)
    assert "others can read" in refused(models, "--token-file", open_file).message
    assert "holds no token" in refused(
        models, "--token-file", private(tmp_path / "empty", "\n")
    ).message  # fmt: skip
    assert "no token" in refused(models, "--token-file", private(tmp_path / "two", "a b")).message
    assert "can't be read" in refused(models, "--token-file", missing).message
    cert, key = folder / "cert.pem", folder / "key.pem"
    assert "a certificate needs its key" in refused(models, "--cert", cert).message
    assert "a certificate needs its key" in refused(models, "--key", key).message
    assert "can't be read" in refused(models, "--cert", cert, "--key", missing).message
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = certificate(other)
    assert (
        "no certificate with its key" in refused(models, "--cert", cert, "--key", foreign).message
    )
    assert "no certificate with its key" in refused(models, "--cert", key, "--key", key).message


@pytest.mark.quick
def test_nan_is_no_limit(folder: Path) -> None:
    for option in ("--timeout", "--run-timeout", "--wait", "--max-body"):
        result = CliRunner().invoke(cli, ["serve", str(folder / "models"), option, "nan"])
        assert result.exit_code == 2
        assert "nan is not finite" in result.output


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused(folder / "models", "--port", port)
    assert f"can't listen on port {port} of 127.0.0.1: Address already in use" in error.message
    assert "can't listen on port 0 of nowhere.invalid" in refused(
        folder / "models", "--port", 0, "--host", "nowhere.invalid"
    ).message  # fmt: skip


@pytest.mark.long
def test_a_saved_model_and_a_keras_file(tmp_path: Path) -> None:
    """TensorFlow is in the model's process only; a SavedModel may be the version's own folder."""
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    model.export(str(tmp_path / "models/saved/7"), verbose=False)
    (tmp_path / "models/whole/1").mkdir(parents=True)
    model.save(tmp_path / "models/whole/1/model.keras")
    (tmp_path / "models/code/1").mkdir(parents=True)
    layers = [keras.layers.Input((3,)), keras.layers.Lambda(lambda x: x + 1)]
    keras.Sequential(layers).save(tmp_path / "models/code/1/model.keras")
    words = keras.layers.TextVectorization(output_sequence_length=4, vocabulary=["good", "bad"])
    layers = [keras.layers.Input((1,), dtype="string"), words, keras.layers.Embedding(5, 2)]
    text = keras.Sequential(layers)
    text.export(str(tmp_path / "models/text/1"), verbose=False)
    server = Server([*HVDKIT, str(tmp_path / "models"), "--port", "0"], tmp_path / "models")
    try:
        assert "Lambda" in server.wait_for("load_failed", model="code")["why"]
        x = np.arange(6, dtype="float32").reshape(2, 3)
        for name in ("saved", "whole"):
            server.wait_for("serving", model=name)
            _, _, metadata = server.request("GET", f"/v2/models/{name}")
            (given,) = metadata["inputs"]
            body = asked(x)
            body["inputs"][0]["name"] = given["name"]
            status, _, answer = server.request("POST", f"/v2/models/{name}/infer", body)
            assert status == 200, answer
            found = np.reshape(answer["outputs"][0]["data"], (2, 2))
            np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5)
        server.wait_for("serving", model="text")
        _, _, metadata = server.request("GET", "/v2/models/text")
        reviews = ["good bad", "neither"]
        tensor = {**metadata["inputs"][0], "shape": [2, 1], "data": reviews}
        _, _, answer = server.request("POST", "/v2/models/text/infer", {"inputs": [tensor]})
        found = np.reshape(answer["outputs"][0]["data"], (2, 4, 2))
        expected = text.predict(
            keras.ops.convert_to_tensor([[each] for each in reviews]), verbose=0
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert server.stop() == 0
    finally:
        server.kill()
