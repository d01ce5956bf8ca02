"""A call that needs the other ranks, before hvd.init()."""

import sys

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd


def train(**options: object) -> None:
    """A step of a distributed optimizer."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse", **options)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)


def train_with_tape() -> None:
    """A step of a loop of one's own."""
    variable = tf.Variable(1.0)
    with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
        loss = 2.0 * variable
    tape.gradient(loss, [variable])


def train_with_broadcast() -> None:
    """A training whose first step would broadcast."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=callbacks)


CALLS = {
    "rank": hvd.rank,
    "size": hvd.size,
    "local_rank": hvd.local_rank,
    "local_size": hvd.local_size,
    "cross_rank": hvd.cross_rank,
    "cross_size": hvd.cross_size,
    "is_homogeneous": hvd.is_homogeneous,
    "mpi_threads_supported": hvd.mpi_threads_supported,
    "size_op": hvd.size_op,
    "rank_op": hvd.rank_op,
    "local_rank_op": hvd.local_rank_op,
    "allreduce": lambda: hvd.allreduce(1.0),
    "grouped_allreduce": lambda: hvd.grouped_allreduce([1.0]),
    "allgather": lambda: hvd.allgather(1.0),
    "grouped_allgather": lambda: hvd.grouped_allgather([1.0]),
    "broadcast": lambda: hvd.broadcast(1.0, 0),
    "alltoall": lambda: hvd.alltoall(np.ones(2)),
    "reducescatter": lambda: hvd.reducescatter(np.ones(2)),
    "grouped_reducescatter": lambda: hvd.grouped_reducescatter([np.ones(2)]),
    "barrier": hvd.barrier,
    "join": hvd.join,
    "broadcast_object": lambda: hvd.broadcast_object(1),
    "broadcast_object_fn": lambda: hvd.broadcast_object_fn()(1),
    "allgather_object": lambda: hvd.allgather_object(1),
    "broadcast_variables": lambda: hvd.broadcast_variables([tf.Variable(1.0)], 0),
    "broadcast_global_variables": lambda: hvd.broadcast_global_variables(0),
    "add_process_set": lambda: hvd.add_process_set([0]),
    "remove_process_set": lambda: hvd.remove_process_set(hvd.ProcessSet([0])),
    "start_timeline": lambda: hvd.start_timeline("timeline.json"),
    "stop_timeline": hvd.stop_timeline,
    "shard": lambda: hvd.shard(np.ones(8), 2),
    "fit": train,
    "fit_eagerly": lambda: train(run_eagerly=True),
    "tape": train_with_tape,
    "broadcast_callback": train_with_broadcast,
}


def try_all() -> None:
    """Show that each call is refused; ends with an error if one is not."""
    for name, call in CALLS.items():
        try:
            call()
        except hvd.NotInitializedError as error:
            print(f"refused: {name}" if "hvd.init()" in str(error) else error)
        else:
            raise SystemExit(f"{name} was not refused")


if __name__ == "__main__":
    try_all() if sys.argv[1] == "all" else CALLS[sys.argv[1]]()
