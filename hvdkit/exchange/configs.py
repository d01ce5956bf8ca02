"""Aggregators, codecs and ranks as plain data, for the configs of exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.engine import ProcessSet, global_process_set, process_sets, topology
from hvdkit.exchange.compression.casts import Compression

_COMPRESSIONS = {"none": Compression.none, "fp16": Compression.fp16, "bf16": Compression.bf16}


def plain(given: Any) -> Any:
    """An aggregator or a codec as plain data: its config, or its name if it has none."""
    if given is None or hasattr(given, "get_config"):
        return keras.saving.serialize_keras_object(given)
    kind = given if isinstance(given, type) else type(given)
    known = (name for name, one in _COMPRESSIONS.items() if one is given)
    return next(known, f"{kind.__module__}.{kind.__qualname__}")


def from_plain(holder: str, plain: Any) -> Any:
    """What `plain` was given.

    Args:
        holder: how it is given anew, for the message, such as "AllReduce(compression=...)".
        plain: the plain data.

    Raises:
        ValueError: it had no config.
    """
    if not isinstance(plain, str):
        return keras.saving.deserialize_keras_object(plain)
    if plain not in _COMPRESSIONS:
        raise ValueError(
            f"{plain} has no get_config(), so it can't be made anew from a config: give it again, "
            f"hvd.exchange.{holder}."
        )
    return _COMPRESSIONS[plain]


def plain_ranks(ranks: ProcessSet) -> list[int] | None:
    """The numbers of some ranks; None for all."""
    return topology.process_set_ranks(ranks) if ranks.process_set_id else None


def ranks_of(plain: Sequence[int] | None) -> ProcessSet:
    """The process set of `plain_ranks`; every rank calls it."""
    return process_sets.process_set_of_ranks(plain) if plain else global_process_set
