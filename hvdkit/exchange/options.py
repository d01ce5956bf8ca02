"""Which exchange an optimizer or a tape gets: the one that it is given, or Horovod's arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from hvdkit.engine import Average, global_process_set
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.base import Exchange
from hvdkit.exchange.compression.casts import Compression

_MEMBERS = ("ranks", "build", "gradients", "weights", "owned", "agreed_by", "get_config")

_DEFAULTS = {
    "op": Average,
    "compression": Compression.none,
    "gradient_predivide_factor": 1.0,
    "groups": None,
    "process_set": global_process_set,
    "device_dense": "",
    "device_sparse": "",
}


def chosen_exchange(exchange: Exchange | None, **arguments: Any) -> Exchange:
    """The exchange that was given, or the default one with Horovod's arguments.

    Args:
        exchange: `exchange=`, or None.
        **arguments: of `AllReduce`, all of them.

    Raises:
        TypeError: `exchange` is no exchange.
        ValueError: an exchange and arguments of the default one were given.
    """
    if exchange is None:
        return AllReduce(**arguments)
    require_exchange(exchange)
    if other := [name for name, value in arguments.items() if value != _DEFAULTS[name]]:
        names = ", ".join(f"{name}=" for name in other)
        raise ValueError(
            f"{names} {'is an argument' if len(other) == 1 else 'are arguments'} of the default "
            f"exchange, and exchange={type(exchange).__name__} takes its place: give one of the "
            "two. An all-reduce with such arguments is "
            f"exchange=hvd.exchange.AllReduce({', '.join(f'{name}=...' for name in other)})."
        )
    return exchange


def require_exchange(exchange: Any) -> None:
    """Refuse what is no exchange.

    Raises:
        TypeError: it says what is missing, and what to give.
    """
    kind = getattr(exchange, "__name__", type(exchange).__name__)
    if hasattr(exchange, "compress") or hasattr(exchange, "additive"):
        raise TypeError(
            f"{kind} is a codec: give exchange=hvd.exchange.AllReduce(compression={kind})."
        )
    if isinstance(exchange, type):
        raise TypeError(
            f"exchange= takes an object, not the class {kind}: give exchange={kind}(...)."
        )
    missing = [name for name in _MEMBERS if not hasattr(exchange, name)]
    if not missing:
        return
    if hasattr(exchange, "aggregate"):
        raise TypeError(
            f"{kind} is an aggregator, which makes the mean of one bucket: give "
            f"exchange=hvd.exchange.AllReduce({kind}(...))."
        )
    raise TypeError(
        f"exchange={kind} is no exchange, since it lacks {', '.join(missing)}; "
        "see hvd.exchange.Exchange."
    )


def groups_argument(
    num_groups: int, groups: int | Sequence[Sequence[Any]] | None
) -> int | Sequence[Sequence[Any]] | None:
    """The value of `groups`, where it may have been given under Horovod's old name."""
    if num_groups:
        # Two levels above this is the caller of hvd.DistributedOptimizer or of the tape.
        warnings.warn("num_groups is now called groups.", DeprecationWarning, stacklevel=3)
    return num_groups if num_groups and groups is None else groups
