"""The losses and weights of the undivided model, with other optimizers than in `checks.meshes`."""

from __future__ import annotations

import keras
from checks.meshes.training import compare


def check_sgd() -> None:
    compare(lambda: keras.optimizers.SGD(0.1, momentum=0.9))


def check_sequence_parallel_with_clipped_norms() -> None:
    compare(lambda: keras.optimizers.SGD(0.1, clipnorm=0.05), sequence_parallel=True)
