"""hvdkit.ray against a real Ray: its ranks train as one process, and end with one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import LIKE_A_USER, ROOT, Finished, run_ranks

# Ray needs pandas, its ranks don't.
LEAN = {"PYTHONPATH": str(ROOT / "tests/lean")}
ENV = {**LIKE_A_USER, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

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


TRAINING = """
def train(seed, *, epochs):
    import keras
    hvd.init()
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, "linear")])
    model.set_weights([np.zeros_like(w) + hvd.rank() for w in model.get_weights()])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    data = hvd.ray.get_shard(x="x", y="y", batch_size=4, seed=seed)
    numbers = hvd.ray.get_shard(x="number", batch_size=4, seed=seed)
    read = [[int(n) for x, w in numbers for n in x[w > 0]] for _ in range(2)]
    start = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    history = model.fit(data, epochs=epochs, callbacks=start, verbose=0).history["loss"]
    peers = hvd.allgather_object((os.getpid(), hvd.local_rank(), hvd.local_size()))
    return model.get_weights(), history, read, peers

def one_process(count, seed, epochs):
    x, y = rows(count)
    half = -(-count // 2)
    parts = [np.arange(count)[:half], np.arange(count)[half:]]
    w, b, losses = np.zeros(3), 0.0, []
    for epoch in range(epochs):
        mixed = [
            part[np.random.default_rng([seed, epoch, rank]).permutation(len(part))]
            for rank, part in enumerate(parts)
        ]
        squares = 0.0
        for step in range(0, half, 4):
            batch = np.concatenate([part[step : step + 4] for part in mixed])
            off = x[batch] @ w + b - y[batch]
            squares += (off**2).sum()
            w, b = w - 0.1 * 2 * (off @ x[batch]) / len(batch), b - 0.1 * 2 * off.mean()
        losses.append(squares / count)
    return w, b, losses

COUNT = 25  # 13 and 12 rows, in batches of 4: the last step has a row on rank 0 alone
results = hvd.ray.run(
    train, (7,), dict(epochs=2), datasets={"train": dataset(COUNT)}, env=LEAN, all_results=True
)
w, b, losses = one_process(COUNT, 7, 2)
for weights, history, read, peers in results:
    np.testing.assert_allclose(np.ravel(weights[0]), w, rtol=1e-4)
    np.testing.assert_allclose(weights[1], [b], rtol=1e-4)
    np.testing.assert_allclose(history, losses, rtol=1e-4)
    assert len({pid for pid, *_ in peers}) == 2
    assert [peer[1:] for peer in peers] == [(0, 2), (1, 2)]
for epoch in range(2):
    assert sorted(sum((result[2][epoch] for result in results), [])) == list(range(COUNT))
assert results[0][2][0] != results[0][2][1], "an epoch has an order of its own"
print("TRAINED")
assert not {"tensorflow", "keras", "horovod"} & sys.modules.keys()

def fail():
    if os.environ["HOROVOD_RANK"] == "1":
        raise KeyError("mine")
    time.sleep(60)

started = time.monotonic()
try:
    hvd.ray.run(fail)
except hvd.FunctionError as error:
    print("ERROR", error.rank, repr(error.__cause__), "in fail" in str(error))
print("SOON", time.monotonic() - started < 30)
print("FREE", cpus_are_free())
"""


def test_ranks_train_as_one_process_and_an_error_has_its_traceback() -> None:
    job = ray_job(TRAINING).require_success()
    assert "TRAINED" in job.output, job.describe()
    assert "rank 0 of 2, 2 on this host (Ray over Gloo)" in job.output, job.describe()
    assert "ERROR 1 KeyError('mine') True" in job.output, job.describe()
    assert "SOON True" in job.output, job.describe()
    assert "FREE True" in job.output, job.describe()
    print(job.output)


ELASTIC = """
def train(folder):
    import keras
    import signal
    hvd.init()
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    state = hvd.elastic.KerasState(model, epoch=0, sizes=[], numbers=[])

    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            time.sleep(0.5)  # so that the new worker comes while the others train
            state.sizes = [*state.sizes, hvd.size()]
            if epoch == 3 and hvd.rank() == 0 and not os.path.exists(f"{folder}/died"):
                open(f"{folder}/died", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

    @hvd.elastic.run
    def loop(state):
        data = hvd.ray.get_shard(x="x", y="y", batch_size=5, seed=1)
        state.numbers = hvd.allgather_object(len(data.source.order(0)))
        model.fit(
            data, initial_epoch=state.epoch, epochs=EPOCHS, verbose=0,
            callbacks=[
                Die(),
                hvd.elastic.UpdateEpochStateCallback(state),
                hvd.elastic.CommitStateCallback(state, batches_per_commit=1),
            ],
        )

    loop(state)
    x, y = rows(25)
    peers = hvd.allgather_object((hvd.local_rank(), hvd.local_size(), os.environ["HVDKIT_JOIN"]))
    return float(((model(x).numpy()[:, 0] - y) ** 2).mean()), state.sizes, state.numbers, peers

EPOCHS = 40
error, sizes, numbers, peers = hvd.ray.run(
    train, (sys.argv[1],), datasets={"train": dataset(25)}, env=LEAN, min_workers=1
)
print("SIZES", sizes)
assert error < 0.05, error
assert sizes[:3] == [2, 2, 2], sizes
assert 1 in sizes, sizes
assert sizes[-1] == 2, sizes
assert numbers == [13, 12], numbers
assert [peer[:2] for peer in peers] == [(0, 2), (1, 2)], peers
assert sorted(peer[2] for peer in peers) == ["1", "2"], peers
print("FREE", cpus_are_free())
"""


@pytest.mark.long
def test_a_worker_that_dies_is_replaced_and_the_training_goes_on(tmp_path: Path) -> None:
    job = ray_job(ELASTIC.replace("sys.argv[1]", repr(str(tmp_path))), timeout=200)
    job.require_success()
    assert "training goes on; ranks: 1." in job.output, job.describe()
    assert "training goes on; ranks: 2." in job.output, job.describe()
    assert "FREE True" in job.output, job.describe()
    print(job.output)


RESUMED = """
def train(folder, dies):
    import keras
    hvd.init()
    hvd.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.1)), "mse")

    class Die(keras.callbacks.Callback):
        batches = 0
        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            if dies and self.batches == 6 and hvd.rank() == 1:
                os._exit(3)

    data = hvd.ray.get_shard(x="x", y="y", batch_size=4, seed=3)
    start = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    saves = [hvd.callbacks.BackupAndRestore(folder, save_freq=1)]
    model.fit(data, epochs=3, callbacks=[*start, *saves, Die()], verbose=0)
    return model.get_weights()

run = dict(datasets={"train": dataset(25)}, env=LEAN)
expected = hvd.ray.run(train, (FOLDER + "/whole", False), **run)
try:
    hvd.ray.run(train, (FOLDER + "/cut", True), **run)
except hvd.FunctionError as error:
    print("DIED", error)
resumed = hvd.ray.run(train, (FOLDER + "/cut", False), **run)
for mine, theirs in zip(resumed, expected):
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
print("RESUMED")
"""


@pytest.mark.long
def test_a_training_goes_on_from_its_checkpoint_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    job = ray_job(RESUMED.replace("FOLDER", repr(str(tmp_path))), timeout=200).require_success()
    assert "ended with exit status 3" in job.output, job.describe()
    assert "going on from" in job.output, job.describe()
    assert "RESUMED" in job.output, job.describe()


FAULTS = """
import signal

def attempt(name, function, *args, **options):
    started = time.monotonic()
    try:
        print(name, "RETURNED", hvd.ray.run(function, args, env=LEAN, **options))
    except (hvd.HvdkitError, TypeError, ValueError) as error:
        print(name, type(error).__name__, error)
    print(name, "SECONDS", time.monotonic() - started < 60)

def killed(who):
    hvd.init()
    if hvd.rank() == 1:
        os.kill(os.getpid() if who == "rank" else os.getppid(), signal.SIGKILL)
    hvd.allreduce(1.0)

def absent():
    if os.environ["HOROVOD_RANK"] == "1":
        time.sleep(100)
    hvd.init()

def one_raises(all_of_them):
    if all_of_them or os.environ["HOROVOD_RANK"] == "1":
        raise KeyError("each time")
    time.sleep(100)

def column(name, x):
    hvd.init()
    return len(hvd.ray.get_shard(name, x=x, batch_size=4))

attempt("RANK", killed, "rank")
attempt("KEEPER", killed, "keeper")
attempt("ROOM", killed, "rank", num_workers=3, start_timeout=3)
attempt("GPU", killed, "rank", gpus_per_worker=1, start_timeout=3)
attempt("ABSENT", absent, start_timeout=10)
attempt("NONE", column, "train", "x")
data = dict(datasets={"train": dataset(25), "one": dataset(1)})
attempt("COLUMN", column, "train", "z", **data)
attempt("NAME", column, "test", "x", **data)
attempt("ONE", column, "one", "x", **data)
nulls = ray.data.from_items([dict(a=1, b=[1]), dict(a=None, b=[1, 2])])
attempt("NULLS", column, "train", "a", datasets={"train": nulls})
attempt("TYPE", column, "train", "a", datasets={"train": [1, 2]})
attempt("NUMBER", column, "train", "a", num_workers=0)
attempt("ONCE", one_raises, False, min_workers=1, max_failures=0)
attempt("ALL", one_raises, True, min_workers=1)
print("FREE", cpus_are_free())
"""


@pytest.mark.long
def test_faults_are_one_clear_error_each() -> None:
    job = ray_job(FAULTS, timeout=400).require_success()
    for line in (
        "RANK FunctionError rank 1 (host ",
        "was ended by signal 9 (SIGKILL)",
        "KEEPER FunctionError rank 1 (host ",
        "was lost:",
        "ROOM HvdkitError Ray had no room for 3 workers with {'CPU': 1} each within 3 s",
        "GPU HvdkitError Ray had no room for 2 workers with {'CPU': 1, 'GPU': 1} each",
        "ABSENT HvdkitError rank 1 (host ",
        "did not come to hvd.init() within 10 s of the first one",
        "NONE FunctionError on rank 0",
        "this job was given no data: pass datasets= to hvdkit.ray.run",
        "there is no column 'z'; there are 'number', 'x', 'y'.",
        "this job has no data 'test'; datasets= of hvdkit.ray.run has 'train', 'one'.",
        "ONE RETURNED 1",
        "column 'a' holds 1 nulls",
        "TYPE TypeError datasets['train'] is a list, not a ray.data.Dataset",
        "NUMBER ValueError num_workers is at least 1",
        "ONCE FunctionError more than 0 workers failed (max_failures); on rank 1",
        "ALL FunctionError all workers have failed; on rank",
        "KeyError: 'each time'",
        "FREE True",
    ):
        assert line in job.output, f"{line}\n{job.describe()}"
    assert "SECONDS False" not in job.output, job.describe()


NODES = """
import os, sys
from ray.cluster_utils import Cluster
import ray
import hvdkit as hvd

cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
try:
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)

    def train():
        hvd.init()
        own = hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size()
        return own, float(hvd.allreduce(float(hvd.rank()), op=hvd.Sum))

    print("NODES", hvd.ray.run(train, num_workers=3, all_results=True))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.long
def test_ranks_of_a_node_are_local_to_each_other() -> None:
    job = run_ranks("python", 1, ["-c", NODES], env=ENV, timeout=200).require_success()
    two_first = "NODES [((0, 2, 0, 2), 3.0), ((1, 2, 0, 1), 3.0), ((0, 1, 1, 2), 3.0)]"
    one_first = "NODES [((0, 1, 0, 2), 3.0), ((0, 2, 1, 2), 3.0), ((1, 2, 0, 1), 3.0)]"
    assert two_first in job.output or one_first in job.output, job.describe()


@pytest.mark.long
def test_example() -> None:
    job = run_ranks("python", 1, ["examples/ray_digits.py", "--epochs", "3"], env=ENV, timeout=200)
    job.require_success()
    assert "test accuracy: 0.9" in job.output, job.describe()


HIDDEN = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "ray" else found(name)
"""
RUN = "import hvdkit as hvd\nhvd.ray.run(print)"


@pytest.mark.quick
def test_ray_that_is_missing_or_too_old(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("__version__ = '1.13.0'")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    old = run_ranks("python", 1, ["-c", RUN], env=env, timeout=30)
    assert old.status == 1, old.describe()
    assert "hvdkit.ray needs ray>=2.50,<3, but Ray 1.13.0 is installed. Run" in old.output
    missing = run_ranks("python", 1, ["-c", HIDDEN + RUN], env=LIKE_A_USER, timeout=30)
    assert missing.status == 1, missing.describe()
    assert "InstallationError: Ray is not installed. Run\n    pip install 'hvdkit[ray]'" in (
        missing.output
    )
