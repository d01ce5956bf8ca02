"""What a build will be: everything found, the facts that decide its result, and their key."""

import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hvdkit_cli.building.cache import cache_key, file_hash, tree_hash
from hvdkit_cli.building.cuda import Cuda, find_cuda
from hvdkit_cli.building.launcher import ENTRY_POINT
from hvdkit_cli.building.mpi import Mpi, find_mpi
from hvdkit_cli.building.toolchain import Toolchain, find_toolchain
from hvdkit_cli.installed import HOROVOD_VERSION, TensorFlow, find_tensorflow, require_supported

INCLUDE = Path(__file__).parent / "include"
# Comes before every file of Horovod, and says which of its mistakes it mends.
FORCED_HEADER = INCLUDE / "horovod_repairs.h"

# Variables of the user's that reach the compiler, so they decide what is built.
COMPILER_VARIABLES = ("CPATH", "CPPFLAGS", "CFLAGS", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")
HOROVOD_VARIABLES = ("HOROVOD_BUILD_ARCH_FLAGS", "HOROVOD_BUILD_CUDA_CC_LIST")
# The instruction sets that Horovod's build file asks the compiler about.
_CPU_FLAGS = ("avx", "f16c", "fma")


@dataclass(frozen=True)
class Plan:
    """All that decides a build.

    Attributes:
        tensorflow: The TensorFlow to build for.
        toolchain: The programs to build with.
        mpi: The MPI to build against, or None.
        cuda: CUDA and NCCL for a GPU build, or None.
        variables: The user's environment variables that change the compiled code.
        site_packages: Where Horovod will be installed.
    """

    tensorflow: TensorFlow
    toolchain: Toolchain
    mpi: Mpi | None
    cuda: Cuda | None
    variables: Mapping[str, str] = field(default_factory=dict)
    site_packages: Path = field(default_factory=lambda: Path(sysconfig.get_path("platlib")))

    @property
    def device(self) -> str:
        """The kind of build, "cpu" or "gpu"; also the name of the folder of our headers."""
        return "cpu" if self.cuda is None else "gpu"

    @property
    def include(self) -> Path:
        """The folder of our headers for this build."""
        return INCLUDE / self.device

    def library_paths(self) -> list[str]:
        """Where Horovod's library finds others at run time, relative to its own folder.

        Relative, so that a cached wheel serves every environment of the same layout.
        """
        home = self.site_packages / "horovod" / "tensorflow"
        folders = [self.mpi.library_dir] if self.mpi and self.mpi.library_dir else []
        if self.cuda and self.cuda.nccl_in_wheel:
            folders.append(self.cuda.nccl_library.parent)
        return [os.path.relpath(folder.resolve(), home.resolve()) for folder in folders]

    def facts(self) -> dict[str, str]:
        """Return everything that decides the wheel's contents, by name."""
        facts = {
            "horovod": HOROVOD_VERSION,
            "tensorflow": f"{self.tensorflow.distribution} {self.tensorflow.version}",
            "tensorflow_build": self.tensorflow.build_id,
            "python": f"{sys.implementation.cache_tag} {platform.python_version()}",
            "mpi": self.mpi.identity if self.mpi else "none",
            "compiler": f"{self.toolchain.cxx.resolve()} {self.toolchain.version}",
            "device": self.device,
            "machine": platform.machine(),
            "cpu_flags": " ".join(cpu_flags()),
            "libc": " ".join(platform.libc_ver()),
            "library_paths": ":".join(self.library_paths()),
            "headers": tree_hash(self.include),
            "forced_header": file_hash(FORCED_HEADER),
            "launcher": ENTRY_POINT,
        }
        if self.cuda is not None:
            facts["cuda"] = f"{self.cuda.version} for TensorFlow's {self.tensorflow.cuda}"
            facts["nccl"] = self.cuda.nccl_version
            if not self.cuda.nccl_in_wheel:
                facts["nccl_path"] = str(self.cuda.nccl_library)
        facts.update({f"${name}": value for name, value in self.variables.items()})
        return facts

    def key(self) -> str:
        """Return the cache key of this build."""
        return cache_key(self.facts())


def make_plan(gpu: bool, mpi: str, env: Mapping[str, str]) -> Plan:
    """Look at what is installed and plan the build for it.

    Args:
        gpu: Whether to build for NVIDIA GPUs.
        mpi: The choice of MPI, see `find_mpi`.
        env: The environment to look in.

    Raises:
        CommandError: Something that the build needs is missing or not supported.
    """
    tensorflow = find_tensorflow()
    require_supported(tensorflow)
    cuda = find_cuda(env, tensorflow) if gpu else None
    toolchain = find_toolchain(env)
    names = COMPILER_VARIABLES + HOROVOD_VARIABLES
    return Plan(
        tensorflow=tensorflow,
        toolchain=toolchain,
        mpi=find_mpi(mpi, env, toolchain.cxx),
        cuda=cuda,
        variables={name: env[name] for name in names if env.get(name)},
    )


def cpu_flags() -> list[str]:
    """Return which of the instruction sets that Horovod's build asks for this CPU has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith("flags"):
            return [flag for flag in _CPU_FLAGS if flag in line.split()]
    return []
