"""Each thing that `hvdkit build` can't do is one clear message with a remedy."""

import sys
from collections import namedtuple

import pytest
from support import BUILD_INFO, fake_distribution, fake_tensorflow, hvdkit, program

from hvdkit_cli.building import cuda as cuda_module
from hvdkit_cli.building import disk, mpi, toolchain
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import find_tensorflow, require_supported

pytestmark = pytest.mark.quick


def test_no_compiler(tmp_path):
    with pytest.raises(CommandError, match=r"no C\+\+ compiler") as caught:
        toolchain.find_toolchain({"PATH": str(tmp_path)})
    assert "apt install g++" in caught.value.remedy


def test_named_compiler_missing(tmp_path):
    with pytest.raises(CommandError, match="CXX=my-c"):
        toolchain.find_toolchain({"PATH": str(tmp_path), "CXX": "my-c++ -O3"})


def test_broken_compiler(tmp_path):
    program(tmp_path, "c++", "exit 1")
    program(tmp_path, "cc", "exit 0")
    with pytest.raises(CommandError, match=r"does not compile a small C\+\+17 program"):
        toolchain.find_toolchain({"PATH": str(tmp_path)})


def test_no_make(tmp_path):
    program(tmp_path, "c++", "exit 0")
    program(tmp_path, "cc", "exit 0")
    with pytest.raises(CommandError, match="no `make`"):
        toolchain.find_toolchain({"PATH": str(tmp_path)})


def test_no_cmake(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "distribution", lambda name: None)
    with pytest.raises(CommandError, match="no CMake"):
        toolchain.find_cmake({"PATH": str(tmp_path)})
    program(tmp_path, "cmake", "echo cmake version 4.1.2")
    with pytest.raises(CommandError, match=r"version 4\.1\.2") as caught:
        toolchain.find_cmake({"PATH": str(tmp_path)})
    assert "pip install 'cmake" in caught.value.remedy
    good = program(tmp_path, "cmake", "echo cmake version 3.25.1")
    assert toolchain.find_cmake({"PATH": str(tmp_path)}) == good


def test_no_mpi(tmp_path, monkeypatch):
    monkeypatch.setattr(mpi, "distribution", lambda name: None)
    for choice in ("auto", "wheel", "system", str(tmp_path / "mpicxx")):
        with pytest.raises(CommandError, match=r"no MPI|No MPI|no such file") as caught:
            mpi.find_mpi(choice, {"PATH": str(tmp_path)}, tmp_path / "c++")
        assert caught.value.remedy
    assert mpi.find_mpi("none", {"PATH": str(tmp_path)}, tmp_path / "c++") is None


def test_mpi_without_headers(tmp_path):
    program(tmp_path, "mpicxx", "exit 1")
    with pytest.raises(CommandError, match=r"includes mpi\.h"):
        mpi.find_mpi(str(tmp_path / "mpicxx"), {"PATH": "/none"}, tmp_path / "c++")


def test_system_mpi_is_not_the_wheels(tmp_path, monkeypatch):
    wheel, system = tmp_path / "env", tmp_path / "system"
    define = "echo '#define MPI_VERSION 4'; echo '#define MPICH_VERSION \"4.3.1\"'"
    program(wheel, "mpicxx", "exit 1")
    program(system, "mpicxx", define)
    monkeypatch.setattr(mpi.sysconfig, "get_path", lambda name: str(wheel))
    path = f"{wheel}:{system}:/bin:/usr/bin"
    found = mpi.find_mpi("system", {"PATH": path}, tmp_path / "c++")
    assert (found.implementation, found.version) == ("MPICH", "4.3.1")
    assert found.compiler == system / "mpicxx"


def test_tensorflow_missing(tmp_path):
    with pytest.raises(CommandError, match="TensorFlow is not installed") as caught:
        find_tensorflow([str(tmp_path)])
    assert "hvdkit[cpu]" in caught.value.remedy


def test_two_tensorflows(tmp_path):
    fake_tensorflow(tmp_path)
    fake_tensorflow(tmp_path, "tensorflow")
    with pytest.raises(CommandError, match="both installed") as caught:
        find_tensorflow([str(tmp_path)])
    assert "pip uninstall" in caught.value.remedy


def test_leftover_metadata_is_not_an_installation(tmp_path):
    (fake_distribution(tmp_path, "tensorflow-cpu", "2.21.0") / "METADATA").unlink()
    with pytest.raises(CommandError, match="not installed"):
        find_tensorflow([str(tmp_path)])


@pytest.mark.parametrize("version", ["2.15.0", "2.20.0", "2.22.0", "2.22.0rc1", "3.0.0"])
def test_tensorflow_unsupported(tmp_path, version):
    fake_tensorflow(tmp_path, version=version)
    with pytest.raises(CommandError, match=f"{version} is not supported") as caught:
        require_supported(find_tensorflow([str(tmp_path)]))
    assert "pip install" in caught.value.remedy


def test_python_unsupported(tmp_path, monkeypatch):
    fake_tensorflow(tmp_path)
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    with pytest.raises(CommandError, match=r"Python 3\.10\.2 is not supported"):
        require_supported(find_tensorflow([str(tmp_path)]))


def test_no_disk_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage(100 * disk.MIB))
    half = 60 * disk.MIB
    disk.require_space([(tmp_path / "not" / "there", half, "set A")])
    # Two needs on one file system add up.
    with pytest.raises(CommandError, match=r"100 MiB free, 120 MiB are needed") as caught:
        disk.require_space([(tmp_path / "a", half, "set A"), (tmp_path / "b", half, "set B")])
    assert "set A" in caught.value.remedy


def test_gpu_needs_a_tensorflow_with_cuda(tmp_path):
    fake_tensorflow(tmp_path)
    with pytest.raises(CommandError, match="built without CUDA") as caught:
        cuda_module.find_cuda({"PATH": "/none"}, find_tensorflow([str(tmp_path)]))
    assert "hvdkit[gpu]" in caught.value.remedy


def _gpu_tensorflow(site):
    fake_tensorflow(site, "tensorflow")
    (site / "tensorflow" / "python" / "platform").mkdir(parents=True)
    info = site / "tensorflow" / "python" / "platform" / "build_info.py"
    info.write_text(BUILD_INFO.format("12.5.1"))
    return find_tensorflow([str(site)])


def test_no_cuda_toolkit(tmp_path, monkeypatch):
    tensorflow = _gpu_tensorflow(tmp_path)
    assert tensorflow.cuda == "12.5.1"
    monkeypatch.setattr(cuda_module, "_toolkit_candidates", lambda env: [tmp_path / "no"])
    with pytest.raises(CommandError, match="no CUDA toolkit") as caught:
        cuda_module.find_cuda({"PATH": "/none"}, tensorflow)
    assert "CUDA_HOME" in caught.value.remedy


def test_no_nccl(tmp_path, monkeypatch):
    tensorflow = _gpu_tensorflow(tmp_path)
    home = tmp_path / "cuda"
    program(home / "bin", "nvcc", "echo 'Cuda compilation tools, release 12.5, V12.5.82'")
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime.h").touch()
    monkeypatch.setattr(cuda_module, "distribution", lambda name: None)
    with pytest.raises(CommandError, match="NCCL for CUDA 12") as caught:
        cuda_module.find_cuda({"PATH": "/none", "CUDA_HOME": str(home)}, tensorflow)
    assert "pip install nvidia-nccl-cu12" in caught.value.remedy


def test_a_refusal_is_two_lines_and_status_1(tmp_path):
    done = hvdkit("build", env={"PATH": str(tmp_path), "HVDKIT_CACHE": str(tmp_path)}, timeout=30)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "hvdkit: error: There is no C++ compiler" in done.stderr
    assert "remedy: " in done.stderr
    done = hvdkit("build", "--mpi", str(tmp_path / "mpicxx"), timeout=30)
    assert done.returncode == 1
    assert "no such file" in done.stderr


def test_gpu_refusal_from_the_command(tmp_path):
    fake_tensorflow(tmp_path)
    done = hvdkit("build", "--gpu", "--dry-run", env={"PYTHONPATH": str(tmp_path)}, timeout=30)
    assert done.returncode == 1
    assert "was built without CUDA" in done.stderr
