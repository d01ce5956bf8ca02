"""Longer jobs on a real Ray: elastic ones, resumed ones, those of several nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import run_ranks
from ray_job import ENV, ray_job

pytestmark = pytest.mark.long

ELASTIC = """
def train(folder):
    import keras
    import signal
    hvd.init()
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    state = hvd.elastic.KerasState(model, epoch=0, batch=0, seen=[], numbers=[])

    class Watching(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            time.sleep(0.5)  # so that the new worker comes while the others train
            self.batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            if (state.epoch, batch) == (3, 1) and hvd.rank() == 0:
                if not os.path.exists(f"{folder}/died"):
                    open(f"{folder}/died", "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_end(self, epoch, logs=None):
            state.seen = [*state.seen, (hvd.size(), self.batches)]

    @hvd.elastic.run
    def loop(state):
        data = hvd.ray.get_shard(x="x", y="y", batch_size=5, seed=1)
        state.numbers = hvd.allgather_object(len(data.source.order(0)))
        model.fit(
            data, initial_epoch=state.epoch, epochs=EPOCHS, verbose=0,
            callbacks=[
                Watching(),
                hvd.elastic.UpdateBatchStateCallback(state),
                hvd.elastic.UpdateEpochStateCallback(state),
                hvd.elastic.CommitStateCallback(state, batches_per_commit=1),
            ],
        )

    loop(state)
    x, y = rows(25)
    peers = hvd.allgather_object((hvd.local_rank(), hvd.local_size(), os.environ["HVDKIT_JOIN"]))
    return float(((model(x).numpy()[:, 0] - y) ** 2).mean()), state.seen, state.numbers, peers

EPOCHS = 40
error, seen, numbers, peers = hvd.ray.run(
    train, (sys.argv[1],), datasets={"train": dataset(25)}, env=LEAN, min_workers=1
)
print("SEEN", seen)
assert error < 0.05, error
assert len(seen) == EPOCHS, seen
# An epoch that was left in its middle begins again: it has all its batches.
assert seen[:3] == [(2, 3)] * 3 and seen[3] == (1, 5), seen
assert set(seen[4:]) <= {(1, 5), (2, 3)} and seen[-1] == (2, 3), seen
assert numbers == [13, 12], numbers
assert [peer[:2] for peer in peers] == [(0, 2), (1, 2)], peers
assert sorted(peer[2] for peer in peers) == ["1", "2"], peers
print("FREE", cpus_are_free())
"""


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


def test_a_training_goes_on_from_its_checkpoint_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    job = ray_job(RESUMED.replace("FOLDER", repr(str(tmp_path))), timeout=200).require_success()
    assert "ended with exit status 3" in job.output, job.describe()
    assert "going on from" in job.output, job.describe()
    assert "RESUMED" in job.output, job.describe()


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


def test_ranks_of_a_node_are_local_to_each_other() -> None:
    job = run_ranks("python", 1, ["-c", NODES], env=ENV, timeout=200).require_success()
    two_first = "NODES [((0, 2, 0, 2), 3.0), ((1, 2, 0, 1), 3.0), ((0, 1, 1, 2), 3.0)]"
    one_first = "NODES [((0, 1, 0, 2), 3.0), ((0, 2, 1, 2), 3.0), ((1, 2, 0, 1), 3.0)]"
    assert two_first in job.output or one_first in job.output, job.describe()


def test_example() -> None:
    job = run_ranks("python", 1, ["examples/ray_digits.py", "--epochs", "3"], env=ENV, timeout=200)
    job.require_success()
    assert "test accuracy: 0.9" in job.output, job.describe()
