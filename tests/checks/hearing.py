"""What hvdkit says in its log while a check runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The warnings that this rank logs inside, as they come."""
    texts: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                texts.append(record.getMessage())

    ear = Ear()
    logging.getLogger("hvdkit").addHandler(ear)
    try:
        yield texts
    finally:
        logging.getLogger("hvdkit").removeHandler(ear)
