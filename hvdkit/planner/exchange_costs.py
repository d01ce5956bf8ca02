"""What each exchange sends, computes and keeps, without TensorFlow.

The bytes are those of `hvdkit.exchange`'s methods, which `tests/test_plan.py` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Matrix = tuple[int, int]


@dataclass(frozen=True)
class ExchangeCost:
    """An exchange of the gradients of a rank.

    Attributes:
        name: as it is asked for.
        reduced: bytes to all-reduces for a weight.
        gathered: bytes to all-gathers for a weight, from each rank.
        rank: of two thin matrices in place of each (PowerSGD); 0 for none.
        passes: how often all gradients go through memory besides, to be compressed.
        sharded: whether each replica has a share of the optimizer: weights are gathered again.
        fully: whether it has a share of the weights, too: they are gathered twice more.
        every: steps between two exchanges.
        residual: bytes kept for a weight.
        exact: whether it trains as one process would.
        call: what to write in a script; empty where hvdkit does not have it.
    """

    name: str
    reduced: float = 4.0
    gathered: float = 0.0
    rank: int = 0
    passes: float = 0.0
    sharded: bool = False
    fully: bool = False
    every: int = 1
    residual: float = 0.0
    exact: bool = True
    call: str = "hvd.exchange.AllReduce()"

    def given(self, weights: float, matrices: Sequence[Matrix]) -> tuple[float, float]:
        """Bytes to all-reduces and to all-gathers of a rank.

        Args:
            weights: number of weights.
            matrices: shapes of those that are matrices, for PowerSGD.
        """
        if not self.rank:
            return self.reduced * weights, self.gathered * weights
        thin, left = 0.0, float(weights)
        for rows, columns in matrices:
            few = self.rank * (rows + columns)
            if few * 2 < rows * columns:  # the rate below which hvdkit does not compress
                thin += few
                left -= rows * columns
        return self.reduced * (thin + left), 0.0


_OF_HVD = "hvd.exchange."
EXCHANGES = {
    cost.name: cost
    for cost in (
        ExchangeCost("all-reduce"),
        ExchangeCost(
            "bf16", 2.0, passes=1.5, call=f"{_OF_HVD}AllReduce(compression=hvd.Compression.bf16)"
        ),
        ExchangeCost("sharded", sharded=True, call=f"{_OF_HVD}Sharded()"),
        ExchangeCost(
            "int8", 0.0, 1.0 + 4 / 256, passes=3, exact=False,
            call=f"{_OF_HVD}AllReduce(hvd.exchange.Int8())"
        ),
        ExchangeCost(
            "1-bit", 0.0, 1 / 8, passes=5, residual=4, exact=False,
            call=f"{_OF_HVD}AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit()))",
        ),
        ExchangeCost(
            "top-1%", 0.0, 0.08, passes=8, residual=4, exact=False,
            call=f"{_OF_HVD}AllReduce(hvd.exchange.TopK(0.01))",
        ),
        ExchangeCost(
            "powersgd-4", rank=4, passes=6, residual=4, exact=False,
            call=f"{_OF_HVD}AllReduce(hvd.exchange.PowerSGD(4))",
        ),
        ExchangeCost("local-sgd-8", every=8, exact=False, call=f"{_OF_HVD}LocalSGD(every=8)"),
        ExchangeCost("fully-sharded", sharded=True, fully=True, call=""),
    )
}  # fmt: skip
"""By name. "fully-sharded" (ZeRO's third stage) is what others have."""


def exchange_cost(name: str) -> ExchangeCost:
    """An exchange by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in EXCHANGES:
        raise ValueError(f"there is no exchange {name!r}: there are {', '.join(EXCHANGES)}.")
    return EXCHANGES[name]
