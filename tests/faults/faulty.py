"""A training in which one rank fails: `faulty.py FAULT RANK LIMIT`.

Each rank has other data and other initial weights. The fault comes before the step `STEP`, when
all ranks have trained together.
"""

import ctypes
import os
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

STEP = 3
FAULT, VICTIM, LIMIT = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def loop() -> None:
    """Never end, as a loop with a mistake."""
    while True:
        sum(range(1000))


def ask_for_too_much_memory() -> None:
    """128 TiB."""
    np.ones(2**44)


def fail() -> None:
    raise KeyError(f"rank {VICTIM} fails")


def fail_alike() -> None:
    raise KeyError("all ranks fail")


def raise_exit() -> None:
    raise SystemExit(3)


def look_up(step: int) -> np.ndarray:
    """A mistake in what reads the data."""
    return {}[f"row {step}"]


def shut_down() -> None:
    """Leave the others, and go on with something else."""
    hvd.shutdown()
    time.sleep(LIMIT)


FAULTS = {
    "exception": fail,
    "exception_everywhere": fail_alike,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "memory_error": ask_for_too_much_memory,
    "exit": lambda: sys.exit(3),
    "hard_exit": lambda: os._exit(4),
    "raised_exit": raise_exit,
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "end": lambda: sys.exit(0),
    "hard_end": lambda: os._exit(0),
    "shutdown": shut_down,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "loop": loop,
    "other_collective": lambda: hvd.broadcast(np.ones(3), 0),
}


def inject() -> None:
    """The fault, and when it was."""
    print(f"FAULT AT {time.time()}", flush=True)
    FAULTS[FAULT]()


class Faulty(keras.callbacks.Callback):
    """What one rank does before a step."""

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if batch != STEP or (hvd.rank() != VICTIM and FAULT != "exception_everywhere"):
            return
        if FAULT == "pause":
            with hvd.pause("a long pause"):
                time.sleep(LIMIT + 3)
        elif FAULT in FAULTS:
            inject()


def rows(rank: int):
    """Data whose reading is the fault."""
    random = np.random.default_rng(rank)
    for step in range(100):
        if FAULT.startswith("data_") and rank == VICTIM and step == STEP:
            print(f"FAULT AT {time.time()}", flush=True)
            loop() if FAULT == "data_loop" else look_up(step)
        yield random.normal(size=(4, 8)), random.normal(size=(4, 1))


def main() -> None:
    # A launcher that was started in the background of a shell leaves it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hvd.init(stall_timeout=LIMIT)
    print(f"PID {os.getpid()} {hvd.rank()}", flush=True)
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)]
    )
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    data = tf.data.Dataset.from_generator(
        lambda: rows(hvd.rank()),
        output_signature=(tf.TensorSpec((4, 8)), tf.TensorSpec((4, 1))),
    )
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(data, steps_per_epoch=20, verbose=0, callbacks=[start, Faulty()])
    same = hvd.allgather_object([float(np.sum(w)) for w in model.get_weights()])
    assert all(weights == same[0] for weights in same)
    print("TRAINED", flush=True)


if __name__ == "__main__":
    main()
