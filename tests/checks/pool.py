"""Checks of the pool itself, see `test_rank_pool.py`."""

from __future__ import annotations

import logging
import os
import signal
import time

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh


def check_changes_what_it_can() -> None:
    os.environ["LEFT_BEHIND"] = "1"
    os.chdir("/")
    keras.config.set_dtype_policy("float16")
    keras.config.set_floatx("float64")
    keras.layers.Dense(1)
    logging.getLogger("hvdkit").addHandler(logging.StreamHandler())
    hvd.set_mesh(hvd.Mesh())
    hvd.set_random_seed(1)


def check_finds_all_as_it_was() -> None:
    assert "LEFT_BEHIND" not in os.environ
    assert os.getcwd() != "/"
    assert (keras.config.dtype_policy().name, keras.config.floatx()) == ("float32", "float32")
    assert keras.layers.Dense(1).name == "dense"
    assert current_mesh() is None
    numbers = hvd.allgather_object(float(np.random.random()))
    assert len(set(numbers)) == hvd.size(), "ranks draw other numbers"


def check_fails_on_the_last_rank() -> None:
    if hvd.rank() == hvd.size() - 1:
        raise KeyError("mine")
    hvd.barrier()


def check_does_not_end() -> None:
    time.sleep(600)


def check_is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
