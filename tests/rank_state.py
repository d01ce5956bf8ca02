"""What a check may change in its rank's process, and how the next one finds it as it was."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import warnings
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit import randomness
from hvdkit.optimizers import tape
from hvdkit.training import comparison

_LOGGERS = ("", "hvdkit", "tensorflow")
_MAX_BYTES = 3 << 30
_SEEN_ONCE: tuple[set[Any], ...] = (comparison._said, tape._SEEN)


class RankState:
    """What a rank is like when it has just started."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        self._folder = os.getcwd()
        self._path, self._arguments = list(sys.path), list(sys.argv)
        self._filters = list(warnings.filters)
        self._hooks = (sys.excepthook, threading.excepthook)
        self._loggers = {
            name: (logger.level, logger.propagate, list(logger.handlers))
            for name in _LOGGERS
            for logger in [logging.getLogger(name)]
        }
        self._floatx, self._epsilon = keras.config.floatx(), keras.config.epsilon()
        self._image_format = keras.config.image_data_format()
        gc.collect()
        gc.freeze()  # what has been imported need not be looked at after each check

    def restore(self) -> None:
        """Put back what a check has changed, and forget what it has made."""
        os.environ.clear()
        os.environ.update(self._environ)
        os.chdir(self._folder)
        sys.path[:], sys.argv[:] = self._path, self._arguments
        warnings.filters[:] = self._filters  # type: ignore[index]
        sys.excepthook, threading.excepthook = self._hooks
        for name, (level, propagate, handlers) in self._loggers.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers
        keras.config.set_floatx(self._floatx)
        keras.config.set_epsilon(self._epsilon)
        keras.config.set_image_data_format(self._image_format)
        tf.config.run_functions_eagerly(False)
        hvd.set_mesh(None)
        randomness._seed = None
        for seen in _SEEN_ONCE:
            seen.clear()
        # The default precision, the names of layers, and TensorFlow's default graph.
        keras.backend.clear_session(free_memory=False)
        gc.collect()

    def seed_for(self, check: str) -> None:
        """Seed what draws random numbers, differently on each rank and the same in each run."""
        seed = zlib.crc32(f"{check} on rank {hvd.rank()}".encode())
        random.seed(seed)  # Keras's default seeds come from it
        np.random.seed(seed)
        tf.random.set_seed(None)


def is_reusable() -> bool:
    """Whether another check can run in this process."""
    return hvd.is_initialized() and _resident_bytes() < _MAX_BYTES


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
