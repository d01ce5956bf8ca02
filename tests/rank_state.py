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

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

_LOGGERS = ("", "hvdkit", "tensorflow")
_MAX_BYTES = 3 << 30
# What hvdkit says or looks at once in a process. Modules that no check has loaded stay unloaded.
_ONCE = (("hvdkit.training.comparison", "_said"), ("hvdkit.optimizers.tape", "_SEEN"))


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
        # One by one: threads of Horovod and MPI may read the others meanwhile.
        for name in {*os.environ} - {*self._environ}:
            del os.environ[name]
        for name, value in self._environ.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(self._folder)
        sys.path[:], sys.argv[:] = self._path, self._arguments
        warnings.filters[:] = self._filters
        sys.excepthook, threading.excepthook = self._hooks
        for name, (level, propagate, handlers) in self._loggers.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers
        keras.config.set_floatx(self._floatx)
        keras.config.set_epsilon(self._epsilon)
        keras.config.set_image_data_format(self._image_format)
        tf.config.run_functions_eagerly(False)
        _forget_what_hvdkit_was_told()
        # The default precision, the names of layers, and TensorFlow's default graph.
        keras.backend.clear_session(free_memory=False)
        gc.collect()

    def seed_for(self, check: str) -> None:
        """Seed what draws random numbers, differently on each rank and the same in each run."""
        seed = zlib.crc32(f"{check} on rank {hvd.rank()}".encode())
        random.seed(seed)  # Keras's default seeds come from it
        np.random.seed(seed)
        tf.random.set_seed(None)


def _forget_what_hvdkit_was_told() -> None:
    """The mesh, the seed, and what it has said once."""
    if "hvdkit.mesh.mesh" in sys.modules:
        hvd.set_mesh(None)
    if "hvdkit.randomness" in sys.modules:
        sys.modules["hvdkit.randomness"]._seed = None
    for module, name in _ONCE:
        if module in sys.modules:
            getattr(sys.modules[module], name).clear()


def is_reusable() -> bool:
    """Whether another check can run in this process."""
    return hvd.is_initialized() and _resident_bytes() < _MAX_BYTES


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
