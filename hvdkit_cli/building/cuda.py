"""Find what a GPU build needs besides: the CUDA toolkit and NCCL."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.building.toolchain import run, which
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import TensorFlow, distribution, installed_file


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit and an NCCL.

    Attributes:
        home: The toolkit's folder, with bin/nvcc and include/cuda_runtime.h.
        version: The toolkit's version, e.g. "12.5".
        nccl_include: The folder of nccl.h.
        nccl_library: The libnccl.so.2.
        nccl_version: NCCL's version, e.g. "2.27.7".
        nccl_in_wheel: Whether NCCL is in this environment, and so moves with it.
    """

    home: Path
    version: str
    nccl_include: Path
    nccl_library: Path
    nccl_version: str
    nccl_in_wheel: bool


def find_cuda(env: Mapping[str, str], tensorflow: TensorFlow) -> Cuda:
    """Find a CUDA toolkit and an NCCL for a GPU build.

    Args:
        env: The environment to look in: HOROVOD_CUDA_HOME, CUDA_HOME, CUDA_PATH, PATH and
            HOROVOD_NCCL_HOME decide.
        tensorflow: The TensorFlow to build for.

    Raises:
        CommandError: TensorFlow was built without CUDA, or the toolkit or NCCL is missing.
    """
    if tensorflow.cuda is None:
        raise CommandError(
            f"{tensorflow.distribution} {tensorflow.version} was built without CUDA.",
            f"pip uninstall -y {tensorflow.distribution}, then pip install 'hvdkit[gpu]'; "
            "or leave out --gpu",
        )
    home, version = _find_toolkit(env)
    return Cuda(home, version, *_find_nccl(env, tensorflow.cuda.split(".")[0]))


def parse_nvcc_version(text: str) -> str | None:
    """Read the release from what `nvcc --version` prints, e.g. "12.5"."""
    match = re.search(r"release\s+(\d+\.\d+)", text)
    return match.group(1) if match else None


def parse_nccl_version(header: str) -> str:
    """Read the version from nccl.h, e.g. "2.27.7"; parts that are not there read as "?"."""
    found = dict(re.findall(r"^#define\s+NCCL_(MAJOR|MINOR|PATCH)\s+(\d+)", header, re.MULTILINE))
    return ".".join(found.get(part, "?") for part in ("MAJOR", "MINOR", "PATCH"))


def _find_toolkit(env: Mapping[str, str]) -> tuple[Path, str]:
    for home in _toolkit_candidates(env):
        nvcc = home / "bin" / "nvcc"
        if nvcc.is_file() and (home / "include" / "cuda_runtime.h").is_file():
            version = parse_nvcc_version(run([str(nvcc), "--version"], env) or "")
            if version:
                return home, version
    raise CommandError(
        "There is no CUDA toolkit: no folder with bin/nvcc and include/cuda_runtime.h was found "
        "by CUDA_HOME, by the nvcc on PATH, or in /usr/local/cuda.",
        "install the CUDA toolkit of the major version that TensorFlow was built for, and set "
        "CUDA_HOME to its folder; or leave out --gpu",
    )


def _toolkit_candidates(env: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"):
        if env.get(variable):
            yield Path(env[variable])
    if nvcc := which(env, "nvcc"):
        yield nvcc.resolve().parent.parent
        # An nvcc on PATH can be a wrapper script; a dry run says where the real one lives.
        told = run(["sh", "-c", '"$0" --dryrun -E -x cu /dev/null 2>&1', str(nvcc)], env)
        if top := re.search(r"^#\$ TOP=(.+)$", told or "", re.MULTILINE):
            yield Path(top.group(1).strip()).resolve()
    yield Path("/usr/local/cuda")


def _find_nccl(env: Mapping[str, str], cuda_major: str) -> tuple[Path, Path, str, bool]:
    if home := env.get("HOROVOD_NCCL_HOME"):
        for folder in ("lib", "lib64"):
            header, library = Path(home, "include", "nccl.h"), Path(home, folder, "libnccl.so.2")
            if header.is_file() and library.is_file():
                version = parse_nccl_version(header.read_text(errors="replace"))
                return header.parent, library, version, False
        raise CommandError(
            f"HOROVOD_NCCL_HOME={home} holds no include/nccl.h and lib/libnccl.so.2.",
            "mend or unset HOROVOD_NCCL_HOME",
        )
    name = f"nvidia-nccl-cu{cuda_major}"
    if found := distribution(name):
        wheel_header = installed_file(found, "include/nccl.h")
        wheel_library = installed_file(found, "lib/libnccl.so.2")
        if wheel_header and wheel_library:
            return wheel_header.parent, wheel_library, found.version, True
    raise CommandError(
        f"NCCL for CUDA {cuda_major} is not installed.",
        f"pip install {name}, or set HOROVOD_NCCL_HOME to the folder of another",
    )
