"""TensorFlow's own warnings, from its C++ code, where they only repeat what is said better."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

# As absl counts them; TF_CPP_MIN_LOG_LEVEL does as well.
_WARNING, _ERROR = 1, 2
# absl's names as TensorFlow 2.21 exports them. Where they are not there, its warnings stay.
_GET = "_ZN4absl12lts_2025081411MinLogLevelEv"
_SET = "_ZN4absl12lts_2025081414SetMinLogLevelENS0_18LogSeverityAtLeastE"


def hide_warnings(seconds: float | None = None) -> None:
    """Show TensorFlow's errors only.

    Args:
        seconds: after which its warnings are shown again; None for the rest of the process.
    """
    functions = _functions()
    if functions is None or functions[0]() > _WARNING:
        return
    get, set_level = functions
    before = get()
    set_level(_ERROR)
    if seconds is not None:
        timer = threading.Timer(seconds, set_level, (before,))
        timer.daemon = True
        timer.start()


@functools.cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    folder = Path(tf.__file__).parent
    try:
        # TensorFlow has loaded it already, so this only looks it up.
        library = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
        return library[_GET], library[_SET]
    except (OSError, AttributeError):
        return None
