"""Load a model and go on training it on several ranks."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import keras

from hvdkit.exchange.compression.casts import Compression, Compressor
from hvdkit.optimizers.composition import is_distributed
from hvdkit.optimizers.distributed import DistributedOptimizer
from hvdkit.state.outside_variables import renew
from hvdkit.state.reachable import optimizers_of


def load_model(
    filepath: Any,
    custom_optimizers: list[type] | None = None,
    custom_objects: dict[str, Any] | None = None,
    compression: Compressor = Compression.none,
    legacy_opts: bool = False,
    **options: Any,
) -> keras.Model:
    """Load a Keras model; its optimizers are distributed, and have their saved state.

    The file can come from a distributed training or from a plain one. Every rank reads it; to
    read it on one rank only, load it there and use `BroadcastGlobalVariablesCallback`.

    Args:
        filepath: a `.keras` (or `.h5`) file.
        custom_optimizers: optimizer classes that are not Keras's.
        custom_objects: name to class or function, as in `keras.models.load_model`.
        compression: how gradients travel, see `DistributedOptimizer`.
        legacy_opts: refused if True; Keras 3 has no legacy optimizers.
        **options: more arguments of `DistributedOptimizer`. A file does not hold them; an
            optimizer saved with `backward_passes_per_step` comes back as one with Keras's
            `gradient_accumulation_steps`, which averages, unless it is given here again.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a Keras model.
    """
    if legacy_opts:
        raise ValueError("Keras 3 has no legacy optimizers: leave legacy_opts out.")
    path = os.fspath(filepath) if isinstance(filepath, (str, os.PathLike)) else None
    if path is not None:
        _require_model_file(path)
    objects = {cls.__name__: cls for cls in custom_optimizers or []}
    try:
        model = keras.models.load_model(
            filepath, custom_objects={**objects, **(custom_objects or {})}
        )
    except (KeyError, OSError) as error:
        raise ValueError(f"{filepath} is not a Keras model: {error}") from error
    except (TypeError, ValueError) as error:  # a part is missing, or a class is not known
        raise ValueError(f"{filepath} can't be loaded as a Keras model: {error}") from error
    for one in optimizers_of(model):  # a model of one's own may hold several
        if not is_distributed(one.optimizer):
            DistributedOptimizer(one.optimizer, compression=compression, **options)
    renew(model)
    return model


def _require_model_file(path: str) -> None:
    if "://" in path:  # Keras fetches it
        return
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}.")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; Keras 3 loads .keras and .h5 files.")
    if path.endswith(".keras"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a Keras model: it is not a .keras (zip) file.")
        with zipfile.ZipFile(path) as archive:
            if "config.json" not in archive.namelist():
                raise ValueError(f"{path} is not a Keras model: it holds no config.json.")
