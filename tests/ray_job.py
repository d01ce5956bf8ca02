"""Scripts with a Ray of their own, for tests of hvdkit.ray."""

from __future__ import annotations

from launch import LEAN, WITH_PANDAS, Finished, run_ranks

ENV = {**WITH_PANDAS, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

# Each script has a Ray of its own, which is gone when it ends.
START = f"""
import os, sys, time
import numpy as np
import pyarrow as pa
import ray
import hvdkit as hvd

LEAN = {LEAN!r}
ray.init(
    num_cpus=2, address="local", include_dashboard=False, object_store_memory=100 * 2**20,
    logging_level="warning",
)

def cpus_are_free():
    for _ in range(100):
        if ray.available_resources().get("CPU") == 2:
            return True
        time.sleep(0.1)
    return False

def rows(count, width=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)).astype("float32")
    return x, (x @ [1.0, -2.0, 0.5] + 0.3).astype("float32")

def dataset(count):
    x, y = rows(count)
    whole = pa.table(dict(number=range(count), x=x.tolist(), y=y))
    return ray.data.from_arrow([whole.slice(first, 7) for first in range(0, count, 7)])
"""


def ray_job(code: str, timeout: float = 120) -> Finished:
    """Run a script in a Ray of its own, which is gone when it ends."""
    script = f"{START}\ntry:\n" + "\n".join(f"    {line}" for line in code.splitlines())
    script += "\nfinally:\n    ray.shutdown()\n"
    return run_ranks("python", 1, ["-c", script], env=ENV, timeout=timeout)
