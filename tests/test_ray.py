"""hvdkit.ray against a real Ray: its ranks train as one process, and end with one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import LIKE_A_USER, ROOT, run_ranks
from ray_job import ray_job

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


@pytest.mark.long
def test_ranks_train_as_one_process_and_an_error_has_its_traceback() -> None:
    job = ray_job(TRAINING).require_success()
    assert "TRAINED" in job.output, job.describe()
    assert "rank 0 of 2, 2 on this host (Ray over Gloo)" in job.output, job.describe()
    assert "ERROR 1 KeyError('mine') True" in job.output, job.describe()
    assert "SOON True" in job.output, job.describe()
    assert "FREE True" in job.output, job.describe()


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
