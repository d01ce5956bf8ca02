"""How a rank's script ends goes into the job's one message: an exception, or `sys.exit(3)`."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from types import TracebackType
from typing import NoReturn

from hvdkit.errors import CollectiveError
from hvdkit.watch.causes import explained
from hvdkit.watch.member import Member, end_process
from hvdkit.watch.messages import EXIT_STATUS, INTERRUPTED

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
        if os.getpid() != self._pid:  # a forked child's errors are its own
            self._original(kind, value, trace)
            return
        status = INTERRUPTED if isinstance(value, KeyboardInterrupt) else EXIT_STATUS
        if self._member.heard:
            sys.stdout.flush()
            self._member.tell(
                {
                    "type": "exception",
                    "name": _full_name(kind),
                    "message": str(value),
                    "traceback": explained(value, trace)
                    or "".join(traceback.format_exception(kind, value, trace)),
                    "secondary": _tells_of_another(value),
                    "status": status,
                }
            )
            self._member.wait_for_end(_ANSWER_SECONDS)
        self._original(kind, value, trace)
        sys.stderr.flush()
        end_process(status)

    def remove(self) -> None:
        """Leave exceptions to whoever had them before."""
        if sys.excepthook is self:
            sys.excepthook = self._original


class ExitHook:
    """In the place of `sys.exit` and `os._exit` while a member watches: with what status?

    Nobody can ask the interpreter for its exit status before it has ended, and then a launcher
    ends the others so fast that none of them may live to tell.

    Args:
        member: tells the hubs.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._original = sys.exit
        self._pid = os.getpid()
        self._status = 0
        sys.exit = self
        os._exit = self._end_now

    def __call__(self, status: str | int | None = None, /) -> NoReturn:
        """Raise `SystemExit`, as ever."""
        if threading.current_thread() is threading.main_thread():
            self._status = _exit_status(status)
        self._original(status)

    def _end_now(self, status: int) -> NoReturn:
        """`os._exit`, which ends the process without any cleaning up."""
        if os.getpid() == self._pid:  # a forked child's end is its own
            self._status = _exit_status(status)
            self.tell()
        end_process(status)

    def tell(self) -> None:
        """Tell the hubs about a status that is not 0, and wait for the end that they send."""
        if self._status and self._member.heard:
            sys.stdout.flush()
            self._member.tell({"type": "exit", "status": self._status})
            self._member.wait_for_end(_ANSWER_SECONDS)

    def remove(self) -> None:
        """Leave `sys.exit` and `os._exit` to whoever had them before."""
        if sys.exit is self:
            sys.exit = self._original
        if os._exit == self._end_now:
            os._exit = end_process


def _exit_status(status: str | int | None) -> int:
    """What a process ends with: the documentation of `sys.exit`."""
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


def _full_name(kind: type[BaseException]) -> str:
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__


def _tells_of_another(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, CollectiveError) or _SHUT_DOWN in str(error)
