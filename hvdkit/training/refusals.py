"""Ways of giving data from `hvd.shard` to Keras that look right and are not: a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from hvdkit.data.sharded import ShardedData


def refuse_beside_sharded(arguments: Mapping[str, Any], method: str, *names: str) -> None:
    """Refuse arguments that data from `hvd.shard` has in itself.

    Args:
        arguments: of the method.
        method: `fit`, `evaluate` or `predict`.
        names: of the arguments.

    Raises:
        ValueError: one of them is given.
    """
    for name in names:
        if arguments.get(name) is not None:
            example = "x, y, sample_weight" if name == "sample_weight" else "x, y"
            how = "batch_size=32" if name == "batch_size" else f"({example}), batch_size=32"
            raise ValueError(
                f"{method}({name}=...) does not go with data from hvd.shard: "
                f"give {name} to hvd.shard, as in hvd.shard({how})."
            )
    if arguments.get("validation_split"):
        raise ValueError(
            f"{method}(validation_split=...) does not go with data from hvd.shard: split the "
            "arrays before, and give "
            "validation_data=hvd.shard((x_validation, y_validation), batch_size=32)."
        )


def refuse_sharded_inside(arguments: Mapping[str, Any], method: str) -> None:
    """Refuse data from `hvd.shard` inside a tuple or another structure, and in the place of y.

    Args:
        arguments: of the method.
        method: `fit`, `evaluate` or `predict`.

    Raises:
        ValueError: it is.
    """
    for name in ("x", "y", "sample_weight", "validation_data"):
        value = arguments.get(name)
        given = isinstance(value, ShardedData)
        if given and name in ("x", "validation_data"):
            continue
        if given or any(isinstance(leaf, ShardedData) for leaf in _leaves(value)):
            place = "validation_data=" if name == "validation_data" else ""
            raise ValueError(
                f"{method}: {name} holds data from hvd.shard beside other data. x and y are "
                f"divided together and given as one: "
                f"{method}({place}hvd.shard((x, y), batch_size=32))."
            )


def _leaves(value: Any) -> list[Any]:
    """What a structure holds; nothing for arrays and data, which are not looked into."""
    return keras.tree.flatten(value) if isinstance(value, (tuple, list, dict)) else []
