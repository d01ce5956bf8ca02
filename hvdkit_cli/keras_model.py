"""A Keras model by what a command line calls it: FILE.keras, or MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from hvdkit_cli.errors import CommandError


def keras_model(where: str, option: str) -> Any:
    """Load a model, without its optimizer, or call the function of a module that returns one.

    Args:
        where: a .keras file, which is loaded in Keras's safe mode; or module:function, which is
            the user's own code and is run.
        option: the option that names it, for messages.

    Raises:
        CommandError: there is no such file or function, or it gives no model.
    """
    module, _, function = where.partition(":")
    if not function and not Path(where).is_file():
        raise CommandError(f"there is no file {where}.", f"{option} FILE.keras, or MODULE:FUNCTION")
    try:
        if function:
            sys.path.insert(0, "")
            return getattr(importlib.import_module(module), function)()
        from hvdkit.export.keras_files import load_keras_file

        return load_keras_file(Path(where))
    except Exception as error:  # of any kind: it is the user's code, or the file's layers
        raise CommandError(
            f"{option} {where}: {error}", "check that it can be loaded in Python"
        ) from error
