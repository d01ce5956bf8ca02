"""Settings of `init` about ranks, and runs, that agree."""

from __future__ import annotations

import os

import tensorflow as tf

from hvdkit.engine.settings import Setting, set_variable
from hvdkit.errors import HvdkitError

CHECK = "HVDKIT_CONSISTENCY_CHECK"
DETERMINISTIC = "HVDKIT_DETERMINISTIC"


def check_settings(consistency_check: bool | None) -> list[Setting]:
    """Set whether `fit` compares the ranks; None leaves it to the environment, else it does."""
    if consistency_check is not None:
        os.environ[CHECK] = str(int(consistency_check))
    return [] if ranks_are_compared() else [Setting(CHECK, "0", "ranks are not compared")]


def ranks_are_compared() -> bool:
    """Whether `fit` compares the ranks by itself."""
    return os.environ.get(CHECK, "1") != "0"


def is_deterministic() -> bool:
    """Whether runs are meant to be equal to the bit."""
    return os.environ.get(DETERMINISTIC, "0") not in ("", "0")


def deterministic_settings(deterministic: bool | None) -> list[Setting]:
    """Fix what follows timing: what Horovod fuses, and TensorFlow's operations.

    Where tensors lie in a buffer of several decides in which order ranks are added up, and which
    tensors share a buffer depends on when they are ready. Reduced alone, each is added up alike
    in every run.

    Args:
        deterministic: None leaves it to the environment.
    """
    if deterministic is not None:
        os.environ[DETERMINISTIC] = str(int(deterministic))
    if not is_deterministic():
        return []
    tf.config.experimental.enable_op_determinism()
    set_variable("HOROVOD_AUTOTUNE", "0", "", given=True)
    set_variable("HOROVOD_FUSION_THRESHOLD", "0", "", given=True)
    return [
        Setting(
            DETERMINISTIC,
            "1",
            "runs with the same seed, ranks and threads are equal to the bit; it costs time: each "
            "tensor is reduced alone, and TensorFlow's deterministic operations are slower",
        )
    ]


def require_deterministic(asked: bool | None) -> None:
    """Refuse to become deterministic after the start.

    Raises:
        HvdkitError: it was asked for, and Horovod started without.
    """
    if asked and not is_deterministic():
        raise HvdkitError(
            "hvd.init(deterministic=True) comes too late: Horovod has started already, and what it "
            "fuses is fixed at the start. Make it the first hvd.init() of the script, or set "
            f"{DETERMINISTIC}=1 in the environment of all ranks."
        )
