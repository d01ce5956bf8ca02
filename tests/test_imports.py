"""Who imports whom, read from the sources; and what `import hvdkit` loads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from launch import ROOT, run_command, run_ranks

# From the bottom to the top: a room imports rooms of its own row, and of those below.
ROWS = (
    {"errors", "descriptions", "lazy", "cgroups", "patches", "keras_internals", "schedules"},
    {"watch", "graph"},
    {"engine"},
    {"mesh", "monitoring"},
    {"exchange", "planner", "randomness"},
    {"data", "collectives"},
    {"optimizers", "layers", "metrics"},
    {"checkpoint", "state"},
    {"callbacks", "compress", "parallel", "export", "serving"},
    {"training", "elastic"},
    {"jobs"},
    {"hvdkit", "__main__", "horovod_modules", "launch", "nonfinite", "ray", "spark"},
)
LEVELS = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
LAZY = (
    "hvdkit",
    "hvdkit.callbacks",
    "hvdkit.checkpoint",
    "hvdkit.compress",
    "hvdkit.elastic",
    "hvdkit.export",
    "hvdkit.monitoring",
    "hvdkit.parallel",
    "hvdkit.ray",
    "hvdkit.spark",
)


class Import(NamedTuple):
    """An import in a file, wherever it stands: `importer` has `imported` in `line`."""

    importer: str
    imported: str
    line: int


@cache
def sources() -> dict[str, ast.Module]:
    """The modules of hvdkit."""
    found = {}
    for path in sorted((ROOT / "hvdkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def imports_in(importer: str, tree: ast.AST) -> Iterator[Import]:
    """The imports in (a part of) a file; `from package import module` imports the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}, line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(importer, whole if whole in sources() else node.module, node.lineno)


def imports() -> list[Import]:
    """All imports of all files."""
    return [found for name, tree in sources().items() for found in imports_in(name, tree)]


def room(module: str) -> str:
    """The folder, or the file, below hvdkit/ that a module belongs to."""
    return [*module.split("."), module][1] if "." in module else module


def of(module: str, package: str) -> bool:
    """Whether a module is a package or in it."""
    return module == package or module.startswith(f"{package}.")


def test_each_room_has_its_place() -> None:
    assert {room(module) for module in sources()} <= LEVELS.keys()


def test_nothing_imports_upwards() -> None:
    upwards = [
        found
        for found in imports()
        if of(found.imported, "hvdkit")
        and LEVELS[room(found.imported)] > LEVELS[room(found.importer)]
    ]
    assert upwards == []


def test_no_circle_of_files() -> None:
    graph: dict[str, set[str]] = {}
    for found in imports():
        if of(found.imported, "hvdkit"):
            graph.setdefault(found.importer, set()).add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other: {' <- '.join(error.args[1])}")


def test_horovod_and_mpi4py_only_in_the_engine() -> None:
    outside = [
        found
        for found in imports()
        if (of(found.imported, "horovod") or of(found.imported, "mpi4py"))
        and room(found.importer) != "engine"
    ]
    assert outside == []


def test_the_command_needs_nothing_that_it_mends() -> None:
    mended = ("hvdkit", "horovod", "tensorflow", "keras")
    doctor = ROOT / "hvdkit_cli" / "doctor"
    own_processes = {doctor / "probe.py", doctor / "pair.py"}
    own_processes |= {ROOT / "hvdkit_cli" / "plan" / "measure_worker.py"}
    for path in {*(ROOT / "hvdkit_cli").rglob("*.py")} - own_processes:
        found = {each.imported for each in imports_in(path.name, ast.parse(path.read_text()))}
        # horovodrun is Horovod's, started through hvdkit's command.
        found -= {"horovod.runner"} if path.name == "horovodrun.py" else set()
        # A job's figures are read by what has written them, which loads nothing of these.
        figures = ("hvdkit.monitoring.sinks", "hvdkit.monitoring.sample")
        # So is a plan made; a Keras model is imported by the option that names one.
        others = ("hvdkit.monitoring.measurement", "hvdkit.planner", "hvdkit.serving")
        found -= {each for each in found for room in (*figures, *others) if of(each, room)}
        # And a model is exported by what is exported.
        if path.parent.name in ("plan", "export") or path.name == "keras_model.py":
            found -= {"hvdkit.errors", "keras", *(e for e in found if of(e, "hvdkit.export"))}
        assert not [each for each in found for package in mended if of(each, package)], path


def test_what_is_private_to_keras_only_in_one_file() -> None:
    outside = [
        found
        for found in imports()
        if of(found.imported, "keras.src") and found.importer != "hvdkit.keras_internals"
    ]
    outside += [
        Import(name, ast.unparse(node), node.lineno)
        for name, tree in sources().items()
        if name != "hvdkit.keras_internals"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "keras.src"
    ]
    assert outside == []


@pytest.mark.parametrize("package", LAZY)
def test_names_that_are_loaded_when_used(package: str) -> None:
    """What is loaded is what type checkers see, is public, and has no module in its way."""
    tree = sources()[package]
    (choice,) = (node for node in tree.body if isinstance(node, ast.If) and node.orelse)
    seen = {
        (f"{node.module}.{alias.name}", alias.name)
        for node in choice.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = set()
    (call,) = (node for node in ast.walk(choice.orelse[0]) if isinstance(node, ast.Call))
    for keyword in call.keywords:
        for module, names in ast.literal_eval(keyword.value).items():
            loaded |= {(f"{module}.{name}", name) for name in names.split()}
            loaded |= set() if names else {(module, module.rpartition(".")[2])}
    assert loaded == seen
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert sorted(public) == sorted(name for _, name in seen)
    # Whoever imports such a module would make the name mean the module.
    shadowed = [whole for whole, name in seen if f"{package}.{name}" in sources().keys() - {whole}]
    assert shadowed == []


def broken(folder: Path, *packages: str) -> dict[str, str]:
    """An environment in which packages are there, but can't be imported."""
    for package in packages:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f'raise ImportError("no {package} here")')
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


PURE = """
import sys
import hvdkit as hvd
import hvdkit.errors, hvdkit.watch.judge
from hvdkit import callbacks, checkpoint, elastic, monitoring, parallel
from hvdkit.schedules.simulation import simulate

plan = hvd.parallel.schedules.OneForwardOneBackward().plan(stages=4, micro_batches=8)
assert round(simulate(plan, forward=1, backward=2).bubble, 3) == 0.273
shape, degrees = parallel.TransformerShape(12, 768, 12, 1024, 50304), parallel.Degrees(tensor=5)
assert "tensor degree" in parallel.misfit(shape, degrees, parallel.Training(8))
try:
    hvd.checkpoint.verify("nowhere")
except checkpoint.CheckpointError as error:
    assert isinstance(error, hvd.HvdkitError)
[getattr(monitoring, name) for name in monitoring.__all__]
loaded = {"tensorflow", "keras", "horovod", "mpi4py"} & sys.modules.keys()
assert not loaded, loaded
assert set(hvd.__all__) <= set(dir(hvd))
"""


def test_pure_rooms_load_without_tensorflow_and_horovod(tmp_path: Path) -> None:
    env = broken(tmp_path, "tensorflow", "keras", "horovod", "mpi4py")
    run_ranks("python", 1, ["-c", PURE], env=env, timeout=30).require_success()
    help_ = run_ranks("python", 1, ["-m", "hvdkit", "--help"], env=env, timeout=30)
    assert "Usage: hvdkit" in help_.require_success().output
    run_command(["hvdkit", "--help"], env=env, timeout=30).require_success()


def test_a_plan_of_memory_needs_no_horovod(tmp_path: Path) -> None:
    command = ["examples/gpt.py", "--plan", "--memory", "8"]
    env = broken(tmp_path, "horovod", "mpi4py")
    job = run_ranks("python", 1, command, env=env, timeout=60).require_success()
    assert "A rank may use 8.0 GiB" in job.output


@pytest.mark.long
def test_what_can_not_be_imported_is_said_at_first_use(tmp_path: Path) -> None:
    command = ["-c", "import hvdkit\nprint('imported')\nhvdkit.init()"]
    job = run_ranks("python", 1, command, env=broken(tmp_path, "horovod"), timeout=60)
    assert job.status == 1, job.describe()
    assert "imported\n" in job.output, job.describe()
    assert "InstallationError: Horovod can't be imported: no horovod here" in job.output
    assert "Run\n    hvdkit build\n" in job.output, job.describe()


UNCHANGED = """
import os, sys

del os.environ["TF_CPP_MIN_LOG_LEVEL"]
import keras

def contents():
    classes = {
        value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "keras"
        for value in list(vars(module).values())
        if isinstance(value, type)
    }
    return {cls: dict(vars(cls)) for cls in classes if cls.__module__.startswith("keras")}

before = contents()
import hvdkit
assert contents() == before
assert "horovod" not in sys.modules
assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"
"""


def test_import_changes_nothing_of_keras() -> None:
    run_ranks("python", 1, ["-c", UNCHANGED], timeout=60).require_success()


REGISTERED = """
import hvdkit as hvd
import keras

hvd.size
package = {name for name in keras.saving.get_custom_objects() if name.startswith("hvdkit>")}
print("REGISTERED", *sorted(package))
"""


@pytest.mark.long
def test_layers_are_known_to_keras_after_first_use() -> None:
    """So that a file with them can be loaded by a script that makes none."""
    decorated = {
        f"hvdkit>{node.name}"
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and any("register_keras_serializable" in ast.unparse(d) for d in node.decorator_list)
    }
    job = run_ranks("python", 1, ["-c", REGISTERED], timeout=60).require_success()
    (line,) = (line for line in job.output.splitlines() if line.startswith("REGISTERED"))
    assert set(line.split()[1:]) == decorated
