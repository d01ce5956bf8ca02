"""Run in processes of their own by the doctor: import what is installed, and try it.

`probe.py imports FILE` writes what the imports show; `probe.py allreduce FOLDER`, run in each rank
of a job, writes what an allreduce gave. Results go to files since launchers mix ranks' output.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def _imports() -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        import tensorflow as tf
    except Exception as error:
        found["tensorflow_error"] = f"{type(error).__name__}: {error}"
        return found
    found["gpus"] = [device.name for device in tf.config.list_physical_devices("GPU")]
    try:
        import keras

        found["keras"] = keras.__version__
        found["keras_backend"] = keras.backend.backend()
    except Exception as error:
        found["keras_error"] = f"{type(error).__name__}: {error}"
    try:
        import horovod.tensorflow as hvd

        found["mpi_built"] = bool(hvd.mpi_built())
        found["gloo_built"] = bool(hvd.gloo_built())
        found["nccl_built"] = int(hvd.nccl_built())
    except Exception as error:
        found["horovod_error"] = f"{type(error).__name__}: {error}"
    return found


def _mpi4py() -> dict[str, str]:
    """Load mpi4py and say which MPI it is on."""
    try:
        from mpi4py import MPI
    except Exception as error:
        return {"mpi4py_error": f"{type(error).__name__}: {error}"}
    version = MPI.Get_library_version().strip("\0").splitlines()[0]
    return {"mpi4py_library": version.split(", package")[0].strip()}


def _loaded_mpis() -> list[str]:
    """Return the MPI libraries mapped into this process: two mean two that don't mix."""
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text().split()
        names = ("libmpi.so", "libmpich.so", "libmpi_intel.so")
        return sorted({item for item in maps if Path(item).name.startswith(names)})
    return []


def _allreduce() -> dict[str, Any]:
    import horovod.tensorflow as hvd
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    total = hvd.allreduce(tf.constant([float(rank + 1)]), op=hvd.Sum)
    found: dict[str, Any] = {
        "rank": rank,
        "size": size,
        "sum": float(total.numpy()[0]),
        "expected": size * (size + 1) / 2,
        "mpi_enabled": bool(hvd.mpi_enabled()),
    }
    if hvd.mpi_enabled():
        found |= _mpi4py()
        found["loaded_mpis"] = _loaded_mpis()
    return found


def main() -> None:
    """Run the trial that the arguments name and write its result."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    trial, target = sys.argv[1], Path(sys.argv[2])
    if trial == "imports":
        target.write_text(json.dumps(_imports() | _mpi4py()))
    else:
        found = _allreduce()
        (target / f"rank-{found['rank']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
