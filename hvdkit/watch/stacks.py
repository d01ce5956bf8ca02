"""Where a rank's script is, for ranks that wait for it."""

from __future__ import annotations

import site
import sys
import sysconfig
import threading
import traceback
from pathlib import Path

_FRAMES = 4

# Frames of packages say little: in a step, the main thread ends in TensorFlow.
_PACKAGES = (
    sysconfig.get_path("stdlib"),
    *site.getsitepackages(),
    site.getusersitepackages(),
    str(Path(__file__).resolve().parent.parent),
    "<",
)
_COPIES = "__autograph_generated_file"


def is_of_script(filename: str) -> bool:
    """Whether a file is the user's own, not one of a package or of Python."""
    return not filename.startswith(_PACKAGES) and _COPIES not in filename


def script_stacks() -> list[str]:
    """The innermost calls of the script, of the main thread and of others that run its code."""
    lines = []
    main = threading.main_thread().ident
    for ident, frame in sys._current_frames().items():
        calls = [call for call in traceback.extract_stack(frame) if is_of_script(call.filename)]
        if calls:
            lines.append("main thread:" if ident == main else "another thread:")
            lines += "".join(traceback.format_list(calls[-_FRAMES:])).splitlines()
    return lines
