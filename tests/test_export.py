"""`hvdkit export`: what other runtimes give is compared with Keras, and nothing wrong is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from launch import ROOT, run_ranks
from test_imports import broken

import hvdkit as hvd
from hvdkit.export import formats
from hvdkit.export.interface import interface_of
from hvdkit.export.runtimes import load
from hvdkit_cli.errors import CommandError
from hvdkit_cli.main import cli

layers = keras.layers
SUFFIXES = {"savedmodel": "", "onnx": ".onnx", "litert": ".tflite"}


def mlp() -> keras.Model:
    """BatchNormalization and dropout, which are something else in training."""
    model = keras.Sequential(
        [
            keras.Input((20,), name="x"),
            layers.Dense(64, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    model.layers[1].moving_mean.assign(np.linspace(-1, 1, 64))
    return model


def attention() -> keras.Model:
    """A dict of integers and a mask, of any length."""
    ids = keras.Input((None,), dtype="int32", name="token ids")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = layers.Embedding(100, 16)(ids)
    x = layers.MultiHeadAttention(2, 8)(x, x, attention_mask=keras.ops.expand_dims(mask, 1))
    return keras.Model([ids, mask], {"logits": layers.Dense(100)(x), "mean": x[:, 0]})


def image() -> keras.Model:
    """Bytes of any size in, two outputs of different types."""
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    x = layers.Conv2D(64, 3, strides=2, padding="same")(layers.Rescaling(1 / 255)(pixels))
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, [layers.Dense(5)(x), x > 0.01])


def recurrent() -> keras.Model:
    """Masked steps, and two inputs."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    more = keras.Input((4,), dtype="float16", name="more")
    x = layers.LSTM(6)(layers.Embedding(50, 8, mask_zero=True)(ids))
    return keras.Model([ids, more], layers.Dense(2)(layers.Concatenate()([x, more])))


def text() -> keras.Model:
    """Strings, looked up in a vocabulary."""
    strings = keras.Input((), dtype="string", name="text")
    ids = layers.TextVectorization(vocabulary=["hello", "world"], output_sequence_length=5)(strings)
    return keras.Model(strings, layers.Embedding(10, 4)(ids))


class OfPython(keras.Model):
    """A model whose call is Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, tensors: dict[str, Any]) -> Any:
        """The sum of both."""
        return self.dense(tensors["a"] + tensors["b"])


def of_python() -> keras.Model:
    """One that was called, so that it has weights."""
    model = OfPython()
    model({"a": np.ones((1, 4), "float32"), "b": np.ones((1, 4), "float32")})
    return model


def same_names() -> keras.Model:
    """An output that is called as an input is, which ONNX does not take."""
    x = keras.Input((4,), name="x")
    return keras.Model({"x": x}, {"x": layers.Dense(3)(x)})


def export(build: Callable[[], keras.Model], to: str, folder: Path, **options: Any) -> Any:
    return hvd.export_model(build(), folder / f"model{SUFFIXES[to]}", to, **options)  # type: ignore[arg-type]


def long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("build", "to"),
    [
        (mlp, "savedmodel"),
        (mlp, "onnx"),
        (mlp, "litert"),
        long(attention, "savedmodel"),
        long(attention, "onnx"),
        (attention, "litert"),
    ],
)
def test_each_format_is_run_and_open_sizes_stay_open(
    build: Callable[[], keras.Model], to: str, tmp_path: Path
) -> None:
    model = build()
    exported = hvd.export_model(model, tmp_path / f"m{SUFFIXES[to]}", to)  # type: ignore[arg-type]
    assert exported.difference.passed
    assert exported.comparisons == (2 if build is mlp else 4)
    runtime = load(exported.path, threads=None)
    interface = interface_of(model)
    assert {str(each) for each in runtime.inputs} == {str(each) for each in interface.inputs}
    rng = np.random.default_rng(5)
    shape = (5, 20) if build is mlp else (5, 9)
    batch = {
        "x": rng.normal(size=shape).astype("float32"),
        "token_ids": rng.integers(0, 100, shape).astype("int32"),
        "mask": rng.integers(0, 2, shape).astype(bool),
    }
    batch = {spec.name: batch[spec.name] for spec in runtime.inputs}
    for name, array in interface.run(batch).items():
        np.testing.assert_allclose(runtime(batch)[name], array, rtol=1e-3, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [exported.path.name]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("build", "to"),
    [(image, "onnx"), long(recurrent, "onnx"), (text, "savedmodel")],
)
def test_bytes_text_and_states(build: Callable[[], keras.Model], to: str, tmp_path: Path) -> None:
    assert export(build, to, tmp_path).difference.passed


@pytest.mark.quick
@pytest.mark.parametrize("to", ["onnx", "litert"])
def test_int8_says_how_far_it_is(to: str, tmp_path: Path) -> None:
    exported = export(mlp, to, tmp_path, quantize="int8")
    assert 1e-4 < exported.quantization.largest < 0.1
    assert exported.quantization.allowed == 0.1


@pytest.mark.quick
def test_a_tolerance_that_is_too_small_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(hvd.export.ExportError, match=r"differs from Keras by .*1e-06 is allowed"):
        export(mlp, "onnx", tmp_path, quantize="int8", tolerance=1e-6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    """`hvdkit export model/model.keras --to savedmodel` would be named as the model's folder."""
    for to, name in (("savedmodel", "run1"), ("onnx", "run1.onnx")):
        target = tmp_path / name
        target.mkdir()
        (target / "step-100").touch()
        with pytest.raises(hvd.export.ExportError, match="a folder of other things"):
            hvd.export_model(mlp(), target, to=to, overwrite=True)
        assert (target / "step-100").exists()


@pytest.mark.quick
def test_what_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that writes other weights than the model's."""
    write = formats.Onnx.write

    def wrong(self: formats.Onnx, interface: Any, path: Path, *, quantize: bool) -> None:
        kept = interface.model.get_weights()
        interface.model.set_weights([each * 1.01 for each in kept])
        write(self, interface, path, quantize=quantize)
        interface.model.set_weights(kept)

    monkeypatch.setattr(formats.Onnx, "write", wrong)
    with pytest.raises(hvd.export.ExportError, match=r"differs from Keras by 0\.0"):
        export(mlp, "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def _noise() -> keras.Model:
    @keras.saving.register_keras_serializable("test_export")
    class Noise(layers.Layer):
        def call(self, x: Any) -> Any:
            return x + keras.random.normal(keras.ops.shape(x))

    x = keras.Input((6,))
    return keras.Model(x, Noise()(x))


def _stateful() -> keras.Model:
    x = keras.Input(batch_shape=(3, 5, 2))
    return keras.Model(x, layers.GRU(3, stateful=True)(x))


def _unbuilt() -> keras.Model:
    return keras.Sequential([layers.Dense(3)])


def _of_activations() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.ReLU()])


@pytest.mark.long
@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("size", [3, 300])  # TensorFlow captures them in different ways
def test_constants_that_no_variable_holds(size: int, to: str, tmp_path: Path) -> None:
    def build() -> keras.Model:
        mean, variance = np.arange(size, dtype="float32"), np.full(size, 2.0, "float32")
        normalization = layers.Normalization(mean=mean, variance=variance)
        return keras.Sequential([keras.Input((size,), name="x"), normalization, layers.Dense(2)])

    exported = export(build, to, tmp_path)
    assert [spec.name for spec in exported.inputs] == ["x"]


@pytest.mark.quick
@pytest.mark.parametrize("to", [long("savedmodel"), "onnx", long("litert")])
def test_an_output_is_not_called_as_an_input(to: str, tmp_path: Path) -> None:
    exported = export(same_names, to, tmp_path)
    assert [spec.name for spec in exported.inputs] == ["x"]
    assert [spec.name for spec in exported.outputs] == ["x_1"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("build", "to", "options", "says"),
    [
        (text, "onnx", {}, r"look up words.*text_vectorization.*export to savedmodel"),
        (recurrent, "litert", {}, r"recurrent layers \(lstm.*--batch-size"),
        (of_python, "onnx", {}, r"Python code.*inputs="),
        (_noise, "onnx", {}, "something else each time"),
        (_stateful, "onnx", {}, "stateful=False"),
        (_unbuilt, "onnx", {}, "not built"),
        (mlp, "tflite", {}, "savedmodel, onnx, litert"),
        (mlp, "onnx", {"quantize": "int4"}, "int8"),
        (_of_activations, "savedmodel", {"quantize": "int8"}, "quantizes no layer"),
        (mlp, "onnx", {"examples": {"y": np.ones((2, 20), "float32")}}, "no input x"),
    ],
)
def test_what_can_not_be_exported_is_named(
    build: Callable[[], keras.Model], to: str, options: Any, says: str, tmp_path: Path
) -> None:
    suffix = SUFFIXES.get(to, ".tflite")
    with pytest.raises(hvd.HvdkitError, match=f"(?s){says}"):
        hvd.export_model(build(), tmp_path / f"model{suffix}", to, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
def test_python_models_and_sizes_that_are_given(tmp_path: Path) -> None:
    spec = keras.InputSpec(shape=(None, 4), dtype="float32")
    exported = export(of_python, "onnx", tmp_path, inputs={"a": spec, "b": spec})
    assert [str(each) for each in exported.inputs] == ["a: float32 (any, 4)", "b: float32 (any, 4)"]
    fixed = export(mlp, "litert", tmp_path, batch_size=2)
    assert [str(each) for each in fixed.inputs] == ["x: float32 (2, 20)"]


@pytest.mark.quick
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mlp().save("mine.keras")
    np.savez("real.npz", x=np.ones((2, 20), "float32"))
    arguments = ["export", "mine.keras", "--to", "onnx", "--examples", "real.npz"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for part in ("mine.onnx: 0.0", "x: float32 (any, 20)", "on 3 batches", "1e-04"):
        assert part.replace("1e-04", "0.0001") in result.output
    with pytest.raises(CommandError, match="there already"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    Path("mine.onnx").write_bytes(Path("mine.onnx").read_bytes()[:700])
    Path("cut.keras").write_bytes(Path("mine.keras").read_bytes()[:700])
    Path("no.keras").write_text("hello")
    Path("folder").mkdir()
    for source, says in (
        ("cut.keras", "cut off"),
        ("no.keras", "no .keras file"),
        ("nowhere.keras", "there is no"),
        ("folder", "hold weights and no model"),
        ("no_such_module:build", "No module named"),
    ):
        with pytest.raises(CommandError, match=says):
            CliRunner().invoke(cli, ["export", source, "--to", "onnx"], catch_exceptions=False)
    for given, says in (
        (["x:float32"], "not NAME:DTYPE:SIZES"),
        (["x:float33:8"], "Invalid dtype: float33"),
        (["x:float32:8", "x:float32:9"], "x is there twice"),
    ):
        options = [each for text in given for each in ("--input", text)]
        with pytest.raises(CommandError, match=says):
            CliRunner().invoke(
                cli, ["export", "mine.keras", "--to", "litert", *options], catch_exceptions=False
            )
    with pytest.raises(CommandError, match="exports to savedmodel, onnx, litert"):
        CliRunner().invoke(cli, [*arguments[:2], "--to", "coreml"], catch_exceptions=False)
    with pytest.raises(hvd.export.ExportError, match="Is it whole"):
        load("mine.onnx")


@pytest.mark.quick
def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    x = keras.Input((2,))
    file = tmp_path / "lambda.keras"
    keras.Model(x, layers.Lambda(lambda t: t * 2)(x)).save(file)
    with pytest.raises(hvd.export.ExportError, match="holds Python code"):
        load(file)


@pytest.mark.quick
def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    mlp().save(file)
    model = load(file)
    x = np.ones((2, 20), "float32")
    assert model({"x": x})["output_0"].shape == (2, 3)
    for wrong, says in (
        ({}, "no input x"),
        ({"x": x, "y": x}, "no input named y"),
        ({"x": x[0]}, r"x: float32 \(any, 20\) was given an array of the shape \(20,\)"),
        ({"x": x.astype("float64")}, "an array of float64"),
    ):
        with pytest.raises(hvd.export.ModelInputError, match=says):
            model(wrong)


WITHOUT_TENSORFLOW = """
import sys
import numpy as np
from hvdkit.export.runtimes import load
for path in sys.argv[1:]:
    print(load(path, threads=1)({"x": np.ones((2, 20), np.float32)})["output_0"].shape)
"""


def test_onnx_and_litert_run_where_there_is_no_tensorflow(tmp_path: Path) -> None:
    files = [str(export(mlp, to, tmp_path).path) for to in ("onnx", "litert")]
    env = broken(tmp_path, "tensorflow", "keras", "horovod", "mpi4py")
    command = ["-c", WITHOUT_TENSORFLOW, *files]
    job = run_ranks("python", 1, command, env=env, timeout=30).require_success()
    assert job.output.count("(2, 3)") == 2


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(hvd.InstallationError, match=r"hvdkit\[export\]"):
        export(mlp, "onnx", tmp_path)


FROM_CHECKPOINTS = """
import os, sys
from click.testing import CliRunner
import keras, numpy as np
from hvdkit.export.runtimes import load
from hvdkit_cli.main import cli

folder = sys.argv[1]
file = f"{folder}/restored.onnx"
arguments = ["export", f"{folder}/checkpoints", "--to", "onnx", "--output", file]
arguments += ["--model", "exported_job:build"]
keras.utils.set_random_seed(9)  # other weights than those that were trained
result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
assert result.exit_code == 0, result.output
undivided = keras.models.load_model(f"{folder}/undivided.keras")
ids = np.arange(24, dtype="int32").reshape(3, 8)
expected = np.asarray(undivided(ids))
for each in (file, f"{folder}/direct.onnx"):
    if os.path.exists(each):
        found = load(each)({"ids": ids})["output_0"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
print("THE SAME")
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tensor", "stages", "apart"])
def test_models_of_several_ranks(kind: str, tmp_path: Path) -> None:
    """From the ranks themselves, and from the checkpoint that they left."""
    job = ["tests/exported_job.py", kind, str(tmp_path)]
    assert "EXPORTED" in run_ranks("mpi", 2, job, forked=True).require_success().output
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    one = run_ranks("python", 1, ["-c", FROM_CHECKPOINTS, str(tmp_path)], env=env, forked=True)
    assert "THE SAME" in one.require_success().output
    assert (tmp_path / "direct.onnx").exists() == (kind != "apart")
