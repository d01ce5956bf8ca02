"""Python objects between ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks.collectives.reference import all_ranks

import hvdkit as hvd


def check_broadcast_object() -> None:
    for root in all_ranks():
        obj = {"rank": hvd.rank(), "list": [1, 2.0, "three"]} if hvd.rank() == root else None
        assert hvd.broadcast_object(obj, root_rank=root) == {
            "rank": root,
            "list": [1, 2.0, "three"],
        }
        # Where the types differ between ranks, stock Horovod waits for ever.
        kinds = [None, 1, "text", b"bytes", {1, 2}]
        assert hvd.broadcast_object(kinds[hvd.rank()], root, name="kinds") == kinds[root]
        add = hvd.broadcast_object((lambda x, r=root: x + r) if hvd.rank() == root else None, root)
        assert add(1) == 1 + root
        large = np.full(300_000, hvd.rank()) if hvd.rank() == root else None
        np.testing.assert_array_equal(hvd.broadcast_object(large, root), np.full(300_000, root))


def check_broadcast_object_fn() -> None:
    root = hvd.size() - 1
    send = hvd.broadcast_object_fn(root_rank=root, name="again")
    for turn in range(3):
        assert send(("turn", turn, hvd.rank())) == ("turn", turn, root)


def check_allgather_object() -> None:
    def of(rank: int) -> Any:
        return [None, {"a": [rank] * 1000}, "text" * rank, (rank, 2.5)][rank % 4]

    for name in (None, "named"):
        assert hvd.allgather_object(of(hvd.rank()), name=name) == [of(r) for r in all_ranks()]
