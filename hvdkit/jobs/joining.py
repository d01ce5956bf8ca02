"""How a rank takes part in a job whose ranks come and go: the rank's side of `membership`."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from urllib.error import URLError

JOIN = "HVDKIT_JOIN"
"""Holds the number of this worker; set by its keeper."""

_NEWS_SECONDS = 1.0


def join() -> None:
    """Load what takes long, become a rank when the others are ready for one, and hear of new ones.

    Raises:
        OSError: the driver is gone.
    """
    import hvdkit.engine  # noqa: F401  (TensorFlow, Keras and Horovod, while the others train)

    worker = os.environ[JOIN]
    for variable in _asked(f"join/{worker}").splitlines():
        name, _, value = variable.partition("=")
        os.environ[name] = value
    threading.Thread(target=_listen, args=(worker,), daemon=True).start()


def _listen(worker: str) -> None:
    from hvdkit.engine.elastic import tell_of_new_hosts

    while True:
        time.sleep(_NEWS_SECONDS)
        try:
            if _asked(f"news/{worker}") == "new":
                tell_of_new_hosts()
        except (URLError, ConnectionError):  # the driver has ended, and will end this rank
            return


def _asked(path: str) -> str:
    address = os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
    port = os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"]
    with urllib.request.urlopen(f"http://{address}:{port}/{path}") as answer:
        return str(answer.read().decode())
