"""An exception of Python code that TensorFlow calls, such as a generator of data.

TensorFlow carries it in the text of an error of its own, between its own frames and Keras's, and
logs the whole text twice besides.
"""

from __future__ import annotations

import atexit
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import script_ops

from hvdkit import patches
from hvdkit.patches import Patch
from hvdkit.watch.stacks import is_of_script
from hvdkit.watch.tensorflow_log import hide_warnings

# Such an error is logged at once, and again when the step that asked for the data ends.
_LOGGED_SECONDS = 3.0
_FRAMES = 4

_TRACEBACK = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'^ *File "(.+)", line \d+, in .+\n(?:    .*\n)*', re.MULTILINE)
# What TensorFlow and Python write below an exception: where in the graph, and what it led to.
_BELOW = re.compile(r'^(?:\t \[\[|"""|The above exception|During handling of)', re.MULTILINE)

# Both only mean that the data has come to its end.
_ENDS = (StopIteration, tf.errors.OutOfRangeError)


def explained(error: BaseException, trace: TracebackType | None) -> str | None:
    """The exception and the lines of the script that led to it; None for any other error.

    Args:
        error: what ended the script.
        trace: where.
    """
    if not isinstance(error, tf.errors.OpError) or _TRACEBACK not in error.message:
        return None
    exceptions = [_parsed(part) for part in f"{error.message}\n".split(_TRACEBACK)[1:]]
    what, frames = exceptions.pop()
    lines = [what, "  in Python code that TensorFlow calls, the innermost call first:", *frames]
    for before, led_to_it in reversed(exceptions):
        if led_to_it:
            lines += [*([] if before == what else [f"  after {before}:"]), *led_to_it]
    calls = [call for call in traceback.extract_tb(trace) if is_of_script(call.filename)]
    if calls:
        lines += ["  asked for by:", traceback.format_list(calls[-1:])[0].rstrip()]
    return "\n".join(lines)


def _parsed(part: str) -> tuple[str, list[str]]:
    """What a traceback ends with, and its innermost lines of the script."""
    found = list(_FRAME.finditer(part))
    what = _BELOW.split(part[found[-1].end() if found else 0 :])[0].strip()
    frames = [frame[0].rstrip() for frame in found if is_of_script(frame[1])]
    return what, frames[: -_FRAMES - 1 : -1]


def install() -> None:
    """Show such exceptions by themselves, in this process; calling it again does nothing.

    And say nothing at the end of the script about iterators over generators that are still there.
    """
    if patches.install(_QUIET):
        sys.excepthook = _Hook(sys.excepthook)
        atexit.register(hide_warnings)


def _call(original: Callable[..., Any], registry: Any, *args: Any) -> Any:
    try:
        return original(registry, *args)
    except _ENDS:
        raise
    except Exception:
        hide_warnings(_LOGGED_SECONDS)
        raise


_QUIET = Patch(
    script_ops.FuncRegistry,
    "__call__",
    _call,
    "an exception in Python code that TensorFlow calls is shown once",
)


class _Hook:
    """In the place of `sys.excepthook`, for processes that no watch speaks for."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        text = explained(error, trace)
        if text is None:
            self._original(kind, error, trace)
        else:
            print(text, file=sys.stderr)
