"""Horovod's own Keras optimizer trains with Keras 3 and reduces nothing; let it say so.

A script that has not changed its import would otherwise drift apart on its ranks without a word.
What is added is Python, at the end of one file of the installed Horovod, so the wheel stays as it
was built.
"""

import base64
import hashlib
import os
import tempfile
from pathlib import Path

from hvdkit_cli.installed import distribution, installed_file

_FILE = "horovod/_keras/__init__.py"
_MARK = "# Added by `hvdkit build`."
_NOTICE = f"""

{_MARK}
def _told_of_keras_3(create):
    import functools
    import warnings

    import keras as installed

    @functools.wraps(create)
    def made(*args, **kwargs):
        told, made.told = made.told, True
        if not told and int(installed.__version__.split(".")[0]) >= 3 and (
            not hvd.is_initialized() or hvd.rank() == 0
        ):
            warnings.warn(
                "Horovod's own DistributedOptimizer does not reduce gradients with Keras "
                + installed.__version__
                + ": every rank trains a model of its own. Use hvdkit in its place: "
                "`import hvdkit as hvd` instead of `import horovod.tensorflow.keras as hvd`.",
                RuntimeWarning,
                stacklevel=3,
            )
        return create(*args, **kwargs)

    made.told = False
    return made


create_distributed_optimizer = _told_of_keras_3(create_distributed_optimizer)
"""


def add_notice() -> bool:
    """Let the installed Horovod's Keras optimizer say that hvdkit's is the one to use.

    Returns:
        Whether the file was changed; False where it says so already, or is not there.

    Raises:
        OSError: The file can't be written.
    """
    found = distribution("horovod")
    file = installed_file(found, _FILE) if found else None
    if found is None or file is None or _MARK in (text := file.read_text()):
        return False
    content = (text.rstrip("\n") + _NOTICE).encode()
    _write(file, content)
    if record := installed_file(found, ".dist-info/RECORD"):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        entry = f"{_FILE},sha256={digest},{len(content)}"
        lines = record.read_text().splitlines()
        kept = [entry if line.startswith(f"{_FILE},") else line for line in lines]
        _write(record, "".join(f"{line}\n" for line in kept).encode())
    return True


def _write(file: Path, content: bytes) -> None:
    """Replace a file, which may be one with that of a package cache."""
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "wb") as temporary:
        temporary.write(content)
    Path(name).chmod(file.stat().st_mode & 0o777)
    Path(name).replace(file)
