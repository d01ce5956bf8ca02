"""The cache's key, the cache, the recipe, progress, and doing nothing when nothing is to do."""

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest
from support import hvdkit

from hvdkit_cli import record
from hvdkit_cli.building import command, recipe
from hvdkit_cli.building.cache import WheelCache, cache_root, tree_hash
from hvdkit_cli.building.cuda import Cuda, parse_nccl_version, parse_nvcc_version
from hvdkit_cli.building.mpi import parse_implementation
from hvdkit_cli.building.plan import Plan, make_plan
from hvdkit_cli.building.process import run_logged, tail
from hvdkit_cli.building.progress import BuildProgress, parse_percent
from hvdkit_cli.errors import CommandError
from hvdkit_cli.record import BuildRecord, read_record, write_record

pytestmark = pytest.mark.quick

replace = dataclasses.replace


def _cuda(plan, version="12.5", nccl="2.27.7"):
    nccl_home = plan.site_packages / "nvidia" / "nccl"
    library = nccl_home / "lib" / "libnccl.so.2"
    return Cuda(Path("/t/cuda"), version, nccl_home / "include", library, nccl, True)


def _changes(plan):
    tensorflow, mpi, cuda = plan.tensorflow, plan.mpi, _cuda(plan)
    yield replace(plan, tensorflow=replace(tensorflow, version="2.21.1"))
    yield replace(plan, tensorflow=replace(tensorflow, distribution="tensorflow"))
    yield replace(plan, tensorflow=replace(tensorflow, build_id="other"))
    yield replace(plan, mpi=None)
    yield replace(plan, mpi=replace(mpi, version="5.0.10"))
    yield replace(plan, mpi=replace(mpi, implementation="MPICH"))
    yield replace(plan, mpi=replace(mpi, source="system", library_dir=None))
    yield replace(plan, toolchain=replace(plan.toolchain, version="c++ 13"))
    yield replace(plan, toolchain=replace(plan.toolchain, cxx=Path("/t/clang++")))
    yield replace(plan, variables={"CXXFLAGS": "-O1"})
    yield replace(plan, variables={"HOROVOD_BUILD_ARCH_FLAGS": "-mavx2"})
    yield replace(plan, cuda=cuda)
    yield replace(plan, cuda=replace(cuda, version="12.6"))
    yield replace(plan, cuda=replace(cuda, nccl_version="2.28.3"))
    yield replace(plan, cuda=replace(cuda, nccl_in_wheel=False))


def test_each_input_changes_the_key(plan):
    plans = [plan, *_changes(plan)]
    keys = [one.key() for one in plans]
    assert len(set(keys)) == len(plans)
    assert keys == [one.key() for one in plans]


@pytest.mark.parametrize("name", ["HOROVOD_VERSION", "cpu_flags", "platform", "sys", "INCLUDE"])
def test_python_machine_and_headers_change_the_key(plan, monkeypatch, tmp_path, name):
    before = plan.key()
    module = "hvdkit_cli.building.plan"
    if name == "HOROVOD_VERSION":
        monkeypatch.setattr(f"{module}.HOROVOD_VERSION", "0.28.2")
    elif name == "cpu_flags":
        monkeypatch.setattr(f"{module}.cpu_flags", lambda: ["none"])
    elif name == "platform":
        monkeypatch.setattr(f"{module}.platform.machine", lambda: "riscv64")
    elif name == "sys":
        monkeypatch.setattr(f"{module}.platform.python_version", lambda: "3.12.99")
    else:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "a.h").write_text("// changed")
        monkeypatch.setattr(f"{module}.INCLUDE", tmp_path)
    assert plan.key() != before


def test_key_is_the_same_in_another_environment(plan, tmp_path):
    """A fresh clone takes its Horovod from the cache: a wheel's MPI moves with the environment."""
    site = tmp_path / "other" / "lib" / "python3" / "site-packages"
    moved = replace(
        plan,
        tensorflow=replace(plan.tensorflow, directory=site / "tensorflow"),
        mpi=replace(
            plan.mpi, compiler=tmp_path / "other/bin/mpicxx", library_dir=tmp_path / "other/lib"
        ),
        site_packages=site,
    )
    assert moved.key() == plan.key()
    assert moved.library_paths() == ["../../../.."]


def test_tree_hash_sees_names_and_contents(tmp_path):
    (tmp_path / "a.h").write_text("1")
    first = tree_hash(tmp_path)
    (tmp_path / "a.h").write_text("2")
    second = tree_hash(tmp_path)
    (tmp_path / "a.h").rename(tmp_path / "b.h")
    assert len({first, second, tree_hash(tmp_path)}) == 3


def test_cache_keeps_finds_and_mistrusts(tmp_path):
    wheel = tmp_path / "horovod-0.28.1-x.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("a", "b")
    cache = WheelCache(tmp_path / "cache")
    assert cache.find("key") is None
    kept = cache.store("key", wheel, {"python": "3"})
    assert cache.find("key") == kept
    assert cache.store("key", wheel, {"python": "3"}) == kept
    assert json.loads((kept.parent / "facts.json").read_text())["facts"] == {"python": "3"}
    kept.write_bytes(kept.read_bytes()[:-3])
    assert cache.find("key") is None
    cache.drop("key")
    assert sorted((tmp_path / "cache" / "wheels").iterdir()) == []


def test_cache_root():
    assert cache_root({"HVDKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/hvdkit")
    assert cache_root({}) == Path.home() / ".cache" / "hvdkit"


def test_cpu_recipe(plan):
    env = {"PATH": "/p", "CPATH": "/mine", "LDFLAGS": "-lz", "HOROVOD_RANK": "3"}
    variables = recipe.build_variables(plan, env, 3, Path("/l"))
    ours, *external, mine = variables["CPATH"].split(":")
    assert ours == str(plan.include)
    assert [Path(folder).name for folder in external] == ["highwayhash", "src"]
    assert mine == "/mine"
    assert variables["MAKEFLAGS"] == "-j3"
    assert variables["LDFLAGS"] == "-Wl,-rpath,'$ORIGIN/../../../..' -lz"
    assert variables["PATH"].startswith(str(plan.mpi.compiler.parent))
    assert not any("GPU" in name or "NCCL" in name for name in variables)
    whole = recipe.build_environment(env, variables)
    assert "HOROVOD_RANK" not in whole
    assert whole["HOROVOD_WITH_MPI"] == "1"
    none = recipe.build_variables(replace(plan, mpi=None), env, 1, Path("/l"))
    assert none["HOROVOD_WITHOUT_MPI"] == "1"
    assert "HOROVOD_WITH_MPI" not in none


def test_gpu_recipe(plan, tmp_path):
    gpu = replace(plan, cuda=_cuda(plan))
    variables = recipe.build_variables(gpu, {"PATH": "/p"}, 1, tmp_path / "lib")
    assert variables["HOROVOD_GPU"] == "CUDA"
    assert variables["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert variables["HOROVOD_CUDA_HOME"] == "/t/cuda"
    assert variables["HOROVOD_NCCL_LIB"] == str(tmp_path / "lib")
    assert "$ORIGIN/../../nvidia/nccl/lib" in variables["LDFLAGS"]
    assert variables["CPATH"].split(":")[0].endswith("include/gpu")
    recipe.link_nccl(gpu, tmp_path / "lib")
    assert (tmp_path / "lib" / "libnccl.so").readlink() == gpu.cuda.nccl_library


def test_gpu_dry_run_prints_the_recipe(plan, monkeypatch, capsys):
    gpu = replace(plan, cuda=_cuda(plan))
    monkeypatch.setattr(command, "make_plan", lambda *arguments: gpu)
    command.build(command.Options(gpu=True, dry_run=True, jobs=2))
    printed = capsys.readouterr().out
    assert "export HOROVOD_GPU_OPERATIONS=NCCL" in printed
    assert "-m pip wheel" in printed
    assert gpu.key() in printed


def test_dry_run_of_the_command(tmp_path):
    done = hvdkit("build", "--dry-run", env={"HVDKIT_CACHE": str(tmp_path / "c")}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "export HOROVOD_WITH_TENSORFLOW=1" in done.stdout
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("[  1%] Building CXX object a.cc.o", 1),
        ("  [ 42%] Building", 42),
        ("[100%] Linking", 100),
        ("[142%] no", None),
        ("see [ 42%]", None),
        ("g++ -O3", None),
    ],
)
def test_percent(line, percent):
    assert parse_percent(line) == percent


def test_progress_without_a_terminal():
    from rich.console import Console

    console = Console(record=True, force_terminal=False, quiet=False, width=100)
    with BuildProgress(console) as progress:
        for line in ["  Running CMake in x:", "-- Configuring done (9.1s)"]:
            progress.feed(line)
        for percent in (1, 2, 9, 10, 11, 8, 25, 26, 100):
            progress.feed(f"[{percent:3d}%] Building")
    lines = console.export_text().splitlines()
    shown = [line.split("%")[0].split(":")[1].split() for line in lines]
    assert shown[:2] == [["configuring", "0"], ["compiling", "0"]]
    assert [percent for _, percent in shown[2:]] == ["10", "25", "100"]


def test_mpi_names():
    open_mpi = "#define OMPI_MAJOR_VERSION 5\n#define OMPI_MINOR_VERSION 0\n"
    open_mpi += "#define OMPI_RELEASE_VERSION 11\n#define MPI_VERSION 3\n"
    assert parse_implementation(open_mpi) == ("Open MPI", "5.0.11")
    intel = '#define I_MPI_VERSION "2021.17.0"\n#define MPICH_VERSION "3.4"\n'
    assert parse_implementation(intel) == ("Intel MPI", "2021.17.0")
    assert parse_implementation("#define MPI_VERSION 4\n") == ("MPI", "4.?")


def test_versions_of_cuda_and_nccl():
    assert parse_nvcc_version("Cuda compilation tools, release 12.5, V12.5.82") == "12.5"
    assert parse_nvcc_version("") is None
    header = "#define NCCL_MAJOR 2\n#define NCCL_MINOR 27\n#define NCCL_PATCH 7\n"
    assert parse_nccl_version(header) == "2.27.7"


def test_build_does_nothing_when_up_to_date(plan, monkeypatch, capsys):
    def never(*arguments):
        raise AssertionError("built")

    monkeypatch.setattr(command, "make_plan", lambda *arguments: plan)
    monkeypatch.setattr(command, "read_record", lambda: BuildRecord(plan.key(), plan.facts()))
    monkeypatch.setattr(command, "_build_and_install", never)
    command.build(command.Options())
    assert "installed already" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="built"):
        command.build(command.Options(force=True))
    monkeypatch.setattr(command, "read_record", lambda: BuildRecord("other", {}))
    with pytest.raises(AssertionError, match="built"):
        command.build(command.Options())


def test_build_does_nothing_here():
    import os

    record = read_record()
    if record is None or record.key != make_plan(False, "auto", os.environ).key():
        pytest.skip("this environment's Horovod is not from a plain `hvdkit build`")
    done = hvdkit("build", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "installed already" in done.stdout


def test_a_failed_build_shows_the_end_of_its_log(plan: Plan, monkeypatch, tmp_path):
    sdist = tmp_path / "s.tar.gz"
    monkeypatch.setattr(command, "_fetch", lambda *arguments: sdist)
    script = "for i in 1 2 3; do echo line $i; done; exit 3"
    monkeypatch.setattr(recipe, "build_command", lambda *arguments: ["sh", "-c", script])
    monkeypatch.setattr(command, "make_plan", lambda *arguments: plan)
    monkeypatch.setattr(command, "read_record", lambda: None)
    monkeypatch.setenv("HVDKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CommandError, match="line 3") as caught:
        command.build(command.Options(jobs=1))
    log = next((tmp_path / "cache" / "logs").iterdir())
    assert str(log) in caught.value.remedy
    assert "MAKEFLAGS=-j1" in log.read_text()


def test_run_logged_ends_the_program_when_interrupted(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        run_logged(["sh", "-c", "echo a; sleep 100"], {"PATH": "/bin:/usr/bin"}, log, interrupt)
    assert tail(log).endswith("a")


def test_record_is_read_from_the_installation(monkeypatch, tmp_path):
    from support import fake_distribution

    from hvdkit_cli.installed import distribution

    folder = fake_distribution(tmp_path, "horovod", "0.28.1", "horovod-0.28.1.dist-info/METADATA,,")
    monkeypatch.setattr(record, "distribution", lambda name: distribution(name, [str(tmp_path)]))
    assert read_record() is None
    (tmp_path / "horovod" / "tensorflow").mkdir(parents=True)
    (tmp_path / "horovod" / "tensorflow" / "mpi_lib.so").touch()
    assert read_record() is None
    write_record(BuildRecord("k", {"a": "b"}))
    assert read_record() == BuildRecord("k", {"a": "b"})
    assert "hvdkit-build.json" in (folder / "RECORD").read_text()
    (folder / "hvdkit-build.json").write_text("[]")
    assert read_record() is None
