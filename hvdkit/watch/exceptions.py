"""An exception that ends a rank's script goes into the job's one message."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

from hvdkit.engine.errors import CollectiveError
from hvdkit.watch.member import EXIT_STATUS, Member

# A hub ends the job long before; this is for a hub that is ended while it waits for others.
_ANSWER_SECONDS = 8.0

_SHUT_DOWN = "Horovod has been shut down"


class ExceptHook:
    """In the place of `sys.excepthook` while a member watches.

    Args:
        member: tells the hubs.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._pid = os.getpid()
        self._original = sys.excepthook
        sys.excepthook = self

    def __call__(
        self, kind: type[BaseException], value: BaseException, trace: TracebackType | None
    ) -> None:
        """Tell the hubs, and wait for the end that they send to all ranks."""
        # A forked child's errors are its own, and so is Ctrl-C.
        if os.getpid() != self._pid or not isinstance(value, Exception):
            self._original(kind, value, trace)
            return
        if self._member.heard:
            sys.stdout.flush()
            self._member.tell(
                {
                    "type": "exception",
                    "name": _full_name(kind),
                    "message": str(value),
                    "traceback": "".join(traceback.format_exception(kind, value, trace)),
                    "secondary": _tells_of_another(value),
                }
            )
            self._member.wait_for_end(_ANSWER_SECONDS)
        self._original(kind, value, trace)
        sys.stderr.flush()
        os._exit(EXIT_STATUS)

    def remove(self) -> None:
        """Leave exceptions to whoever had them before."""
        if sys.excepthook is self:
            sys.excepthook = self._original


def _full_name(kind: type[BaseException]) -> str:
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__


def _tells_of_another(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, CollectiveError) or _SHUT_DOWN in str(error)
