"""hvdkit.spark against a real Spark: its ranks train as one process, and end with one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import LEAN, ROOT, WITH_PANDAS, Finished, run_ranks

START = f"""
import os, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
import hvdkit as hvd
from pyspark.sql import SparkSession

LEAN = {LEAN!r}
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.driver.memory", "512m")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")

def rows(count, width=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)).astype("float32")
    return x, (x @ [1.0, -2.0, 0.5] + 0.3).astype("float32")

def frame(count):
    x, y = rows(count)
    return spark.createDataFrame(
        [(i, x[i].tolist(), float(y[i]), float(i)) for i in range(count)],
        "number int, x array<float>, y float, other double",
    )
"""


def spark_job(code: str, timeout: float = 120) -> Finished:
    """Run a script with a Spark of its own, which is gone when it ends."""
    script = f"{START}\ntry:\n" + "\n".join(f"    {line}" for line in code.splitlines())
    script += "\nfinally:\n    spark.stop()\n"
    return run_ranks("python", 1, ["-c", script], env=WITH_PANDAS, timeout=timeout)


TRAINING = """
def train(seed, *, epochs):
    import keras
    hvd.init()
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.set_weights([np.zeros_like(w) + hvd.rank() for w in model.get_weights()])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    data = hvd.spark.get_shard(x="x", y="y", batch_size=4, seed=seed)
    numbers = hvd.spark.get_shard(x="number", batch_size=4, seed=seed)
    read = [[int(n) for x, w in numbers for n in x[w > 0]] for _ in range(epochs)]
    start = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    history = model.fit(data, epochs=epochs, callbacks=start, verbose=0).history["loss"]
    peers = hvd.allgather_object((os.getpid(), hvd.local_rank(), hvd.local_size()))
    return model.get_weights(), history, read, peers

def one_process(count, read):
    x, y = rows(count)
    w, b, losses = np.zeros(3), 0.0, []
    for parts in zip(*read):
        squares = 0.0
        for step in range(0, max(map(len, parts)), 4):
            batch = sum((part[step : step + 4] for part in parts), [])
            off = x[batch] @ w + b - y[batch]
            squares += (off**2).sum()
            w, b = w - 0.1 * 2 * (off @ x[batch]) / len(batch), b - 0.1 * 2 * off.mean()
        losses.append(squares / count)
    return w, b, losses

COUNT = 25
results = hvd.spark.run(
    train, (7,), dict(epochs=2), df=frame(COUNT), columns=["number", "x", "y"], env=LEAN,
    all_results=True,
)
read = [result[2] for result in results]
for parts in zip(*read):
    assert sorted(sum(parts, [])) == list(range(COUNT)), parts
    assert len(parts[0]) != len(parts[1])
assert read[0][0] != read[0][1], "an epoch has an order of its own"
w, b, losses = one_process(COUNT, read)
for weights, history, _, peers in results:
    np.testing.assert_allclose(np.ravel(weights[0]), w, rtol=1e-4)
    np.testing.assert_allclose(weights[1], [b], rtol=1e-4)
    np.testing.assert_allclose(history, losses, rtol=1e-4)
    assert len({pid for pid, *_ in peers}) == 2
    assert [peer[1:] for peer in peers] == [(0, 2), (1, 2)]
print("TRAINED")
assert not {"tensorflow", "keras", "horovod"} & sys.modules.keys()
"""


@pytest.mark.long
def test_ranks_train_as_one_process() -> None:
    job = spark_job(TRAINING).require_success()
    assert "TRAINED" in job.output, job.describe()
    assert "rank 0 of 2, 2 on this host (Spark over Gloo)" in job.output, job.describe()


FAULTS = """
import signal
from pyspark.sql.functions import lit

def attempt(name, function, *args, **options):
    started = time.monotonic()
    try:
        print(name, "RETURNED", hvd.spark.run(function, args, env=LEAN, **options))
    except (hvd.HvdkitError, TypeError, ValueError) as error:
        print(name, type(error).__name__, error)
    print(name, "SECONDS", time.monotonic() - started < 60)

def killed(who):
    hvd.init()
    if hvd.rank() == 1:
        os.kill(os.getpid() if who == "rank" else os.getppid(), signal.SIGKILL)
    hvd.allreduce(1.0)

def raises():
    if os.environ["HOROVOD_RANK"] == "1":
        raise KeyError("mine")
    time.sleep(100)

def absent():
    if os.environ["HOROVOD_RANK"] == "1":
        time.sleep(100)
    hvd.init()

def column(x, name="train"):
    hvd.init()
    return len(hvd.spark.get_shard(name, x=x, batch_size=4))

try:
    hvd.spark.run(raises)
except hvd.FunctionError as error:
    print("CAUSE", error.rank, repr(error.__cause__), "in raises" in str(error))
attempt("RAISES", raises)
attempt("SLOTS", raises, num_proc=3, start_timeout=2)
attempt("RANK", killed, "rank")
attempt("TASK", killed, "task")
attempt("ABSENT", absent, start_timeout=10)
attempt("NONE", column, "x")
attempt("COLUMN", column, "z", df=frame(25))
attempt("NAME", column, "x", "test", df=frame(25))
attempt("ONE", column, "x", df=frame(1))
attempt("EMPTY", column, "x", df=frame(25).filter("number < 0"))
attempt("MATRIX", column, ["y", "other"], df=frame(25))
attempt("NULLS", column, "n", df=frame(25).withColumn("n", lit(None).cast("int")))
attempt("NUMBER", column, "x", num_proc=0)
attempt("DF", column, "x", columns=["x"])
"""


@pytest.mark.long
def test_faults_are_one_clear_error_each() -> None:
    job = spark_job(FAULTS, timeout=400).require_success()
    for line in (
        "CAUSE 1 KeyError('mine') True",
        "RAISES FunctionError on rank 1 (host ",
        "SLOTS HvdkitError Spark did not start 3 tasks at once within 2 s (start_timeout); "
        "it started none",
        "the master is local[2], with 2 slots",
        "RANK FunctionError rank 1 (host ",
        "was ended by signal 9 (SIGKILL)",
        "TASK HvdkitError Spark's stage has failed",
        "ABSENT HvdkitError rank 1 of 2 did not come to hvd.init() within 10 s of the first one",
        "NONE FunctionError on rank 0",
        "this job was given no data",
        "there is no column 'z'; there are 'number', 'x', 'y', 'other'.",
        "there is no data 'test': the rows of df= are called 'train'.",
        "ONE RETURNED 1",
        "the data has no rows.",
        "MATRIX RETURNED 4",
        "column 'n' holds 1",
        "NUMBER ValueError num_proc is the number of ranks",
        "DF ValueError columns are those of df",
    ):
        assert line in job.output, f"{line}\n{job.describe()}"
    assert "SECONDS False" not in job.output, job.describe()


@pytest.mark.long
def test_example() -> None:
    arguments = ["examples/spark_digits.py", "--epochs", "3"]
    job = run_ranks("python", 1, arguments, env=WITH_PANDAS, timeout=200).require_success()
    assert "test accuracy: 0.9" in job.output, job.describe()


RUN = "import hvdkit as hvd\nhvd.spark.run(print)"
HIDDEN = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "pyspark" else found(name)
"""
OLD_JAVA = """#!/bin/sh
echo 'openjdk version "1.8.0_402"' >&2
"""


@pytest.mark.quick
def test_spark_and_java_that_are_missing_or_too_old(tmp_path: Path) -> None:
    package, bin_folder = tmp_path / "old" / "pyspark", tmp_path / "java8" / "bin"
    package.mkdir(parents=True)
    bin_folder.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '3.5.1'")
    (bin_folder / "java").write_text(OLD_JAVA)
    (bin_folder / "java").chmod(0o755)
    java = {**WITH_PANDAS, "JAVA_HOME": str(tmp_path / "java8")}
    cases = [
        (RUN, {"PYTHONPATH": f"{package.parent}:{ROOT}"}, "needs pyspark>=4.0,<5, but PySpark 3.5"),
        (HIDDEN + RUN, WITH_PANDAS, "InstallationError: PySpark is not installed. Run\n    pip"),
        (RUN, java, """java is 'openjdk version "1.8.0_402"'. Spark 4 needs Java 17 or later"""),
        (
            RUN,
            {**WITH_PANDAS, "JAVA_HOME": "/nowhere"},
            "there is no /nowhere/bin/java (JAVA_HOME)",
        ),
    ]
    for code, env, message in cases:
        job = run_ranks("python", 1, ["-c", code], env=env, timeout=60)
        assert job.status == 1, job.describe()
        assert message in job.output, job.describe()
