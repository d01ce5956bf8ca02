"""The few numbers of the cost model that no data sheet has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fitted:
    """What was fitted to published measurements: `python benchmarks/plan_published.py fit`.

    The same for all models, devices and clusters.

    Attributes:
        flash: share of the attainable FLOP/s that attention in pieces reaches.
        flash_of_2023: the same of its first versions.
        memory: share of the memory's bandwidth that operations on single elements reach.
        operation: seconds that an operation takes besides.
        wire: share of the bandwidth of a link that is given by its bandwidth alone.
        overlap: share of the backward pass beside which gradients can travel.
        jitter: how much longer a step of one host now and then takes, as a standard deviation
            in parts of the step. All wait for the slowest of k hosts: `step.slowest_of`.
    """

    flash: float = 0.157
    flash_of_2023: float = 0.11
    memory: float = 0.754
    operation: float = 3.63e-5
    wire: float = 0.976
    overlap: float = 0.789
    jitter: float = 0.0545


FITTED = Fitted()
