"""The recipe: the command and the environment that build Horovod from its own sources.

Nothing of Horovod is copied or changed before it is built. What TensorFlow has moved or removed
since Horovod 0.28.1 is put back by headers of our own, ahead on the compiler's search path.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hvdkit_cli.building.plan import FORCED_HEADER, HOROVOD_VARIABLES, Plan
from hvdkit_cli.installed import HOROVOD_VERSION

SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

# Headers that TensorFlow's own include by a path that its package does not keep.
_TENSORFLOW_EXTERNAL = ("highwayhash", "farmhash_archive/src")
# Would change what is built behind the back of the cache's key.
_REMOVED = ("CCL_ROOT", "CMAKE_TOOLCHAIN_FILE", "CMAKE_GENERATOR", "PYTHONPATH", "PYTHONHOME")


def requirement() -> str:
    """Return the line of a requirements file that names the sdist and its only accepted hash."""
    return f"horovod=={HOROVOD_VERSION} --hash=sha256:{SDIST_SHA256}\n"


def download_command(requirements: Path, folder: Path) -> list[str]:
    """Return the pip command that downloads the sdist into `folder`, checking its hash."""
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"),
        *("--no-binary", "horovod", "--require-hashes", "--dest", str(folder)),
        *("--requirement", str(requirements)),
    ]


def build_command(sdist: Path, folder: Path) -> list[str]:
    """Return the pip command that builds the sdist into a wheel in `folder`.

    The pip cache is left out: it keeps wheels by their sources alone, not by what they were
    built for.
    """
    return [
        *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-index"),
        *("--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(folder), str(sdist)),
    ]


def build_variables(
    plan: Plan, env: Mapping[str, str], jobs: int, link_dir: Path
) -> dict[str, str]:
    """Return the environment variables that the build sets.

    Args:
        plan: What is being built.
        env: The environment of the user, whose own settings are added to.
        jobs: Compiler processes at a time.
        link_dir: A folder that will hold `libnccl.so`, for a GPU build; see `link_nccl`.
    """
    external = plan.tensorflow.include / "external"
    headers = [plan.include, *(external / name for name in _TENSORFLOW_EXTERNAL)]
    variables = {
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_CMAKE": str(plan.toolchain.cmake),
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
        "MAKEFLAGS": f"-j{jobs}",
        "CXX": env.get("CXX") or str(plan.toolchain.cxx),
        "CC": env.get("CC") or str(plan.toolchain.cc),
        "CXXFLAGS": f"-include {FORCED_HEADER} {env.get('CXXFLAGS', '')}".strip(),
        "CPATH": _joined([str(header) for header in headers], env.get("CPATH")),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    path = [str(Path(sys.executable).parent)]
    if plan.mpi is None:
        variables["HOROVOD_WITHOUT_MPI"] = "1"
    else:
        variables["HOROVOD_WITH_MPI"] = "1"
        variables["MPI_HOME"] = str(plan.mpi.compiler.parent.parent)
        path.insert(0, str(plan.mpi.compiler.parent))
    if plan.cuda is None:
        variables["HOROVOD_WITHOUT_NVTX"] = "1"
    else:
        variables |= {
            "HOROVOD_GPU": "CUDA",
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_CUDA_HOME": str(plan.cuda.home),
            "HOROVOD_NCCL_INCLUDE": str(plan.cuda.nccl_include),
            "HOROVOD_NCCL_LIB": str(link_dir),
            "HOROVOD_NCCL_LINK": "SHARED",
        }
        path.append(str(plan.cuda.home / "bin"))
    variables["PATH"] = _joined(path, env.get("PATH", os.defpath))
    # The quotes are for the shell that runs the link command.
    origins = [f"-Wl,-rpath,'$ORIGIN/{folder}'" for folder in plan.library_paths()]
    if plan.cuda is not None and not plan.cuda.nccl_in_wheel:
        origins.append(f"-Wl,-rpath,{plan.cuda.nccl_library.parent}")
    if flags := " ".join([*origins, env.get("LDFLAGS", "")]).strip():
        variables["LDFLAGS"] = flags
    return variables


def build_environment(env: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return the build's whole environment.

    The user's HOROVOD_ variables are left out, but for those that the cache's key knows.
    """
    kept = {
        name: value
        for name, value in env.items()
        if name not in _REMOVED and (not name.startswith("HOROVOD_") or name in HOROVOD_VARIABLES)
    }
    return kept | dict(variables)


def link_nccl(plan: Plan, link_dir: Path) -> None:
    """Make `libnccl.so` in `link_dir`: NCCL's wheel holds only `libnccl.so.2`."""
    if plan.cuda is not None:
        link_dir.mkdir(parents=True, exist_ok=True)
        (link_dir / "libnccl.so").symlink_to(plan.cuda.nccl_library)


def _joined(first: list[str], rest: str | None) -> str:
    return os.pathsep.join([*first, *([rest] if rest else [])])
