"""What a job on Ray consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hvdkit.ray.datasets import Blocks
from hvdkit.ray.workers import Workers


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        call: the pickled function with its arguments.
        workers: how many ranks there are.
        resources: what each needs.
        strategy: how they are spread over nodes.
        limit: seconds that workers may take to come.
        env: variables of their environment.
    """

    call: bytes
    workers: int
    resources: dict[str, float]
    strategy: str
    limit: float
    env: dict[str, str]

    def placed(self, ray: Any, blocks: Mapping[str, Blocks]) -> Workers:
        """Its actors; a context manager."""
        return Workers(ray, self.workers, self.resources, self.strategy, blocks, self.limit)
