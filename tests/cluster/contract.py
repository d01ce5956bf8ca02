"""What several hosts have to do as one process does: `contract.py FOLDER LOCAL`.

It prints where each rank is, trains on sharded data and writes the weights into FOLDER, lays a mesh
over the hosts, and saves a checkpoint into FOLDER, and another one into LOCAL, which each host has
for itself.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.errors import CheckpointError

ROWS, BATCH = 96, 8
FOLDER, LOCAL = Path(sys.argv[1]), sys.argv[2]


def say(what: str, *values: object) -> None:
    """A line of this rank's, which no other one comes between."""
    sys.stdout.write(" ".join([what, *map(str, values)]) + "\n")
    sys.stdout.flush()


def train() -> keras.Model:
    """As one process with all rows does it, over any number of ranks."""
    keras.utils.set_random_seed(1 + hvd.rank())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).astype("float32")
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(3)]
    )
    rng = np.random.default_rng(2 + hvd.rank())  # those of rank 0 are sent to all
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05, momentum=0.9)), "mse")
    data = hvd.shard((x, y), batch_size=BATCH // hvd.size())
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(data, epochs=2, verbose=0, callbacks=[start])
    return model


def main() -> None:
    hvd.init()
    here = socket.gethostname()
    ranks = (hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size())
    say("PLACE", hvd.rank(), here, *ranks)
    model = train()
    if hvd.rank() == 0:
        np.savez(FOLDER / f"weights{hvd.size()}.npz", *model.get_weights())
    if hvd.size() == 1:
        return
    mesh = hvd.Mesh(tensor=2)
    say(
        "TENSOR",
        hvd.rank(),
        *sorted({*hvd.allgather_object(here, process_set=mesh.set_along("tensor"))}),
    )
    hvd.checkpoint.save(FOLDER / "checkpoint", model, values={"steps": 3})
    say("RESTORED", hvd.rank(), hvd.checkpoint.restore(FOLDER / "checkpoint", model)["steps"])
    try:
        hvd.checkpoint.save(LOCAL, model)
    except CheckpointError as error:
        say("REFUSED", hvd.rank(), error)


if __name__ == "__main__":
    main()
