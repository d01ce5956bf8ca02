"""What a stage of a pipeline does, and what it has to wait for.

A stage holds one chunk of the model, or several: the model is cut into
`stages x chunks` chunks, and the k-th of all belongs to stage k mod stages, as its chunk k div
stages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Forward:
    """The forward pass of a micro-batch through a chunk.

    Attributes:
        micro_batch: which micro-batch of the batch, from 0.
        chunk: which chunk of the stage, from 0.
    """

    micro_batch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"F{self.micro_batch}" + (f".{self.chunk}" if self.chunk else "")


@dataclass(frozen=True)
class Backward:
    """The backward pass of a micro-batch through a chunk.

    Attributes:
        micro_batch: which micro-batch of the batch, from 0.
        chunk: which chunk of the stage, from 0.
    """

    micro_batch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"B{self.micro_batch}" + (f".{self.chunk}" if self.chunk else "")


Action = Forward | Backward
Plan = list[list[Action]]
"""For each stage its actions, in the order in which it does them."""


def source(action: Action, stage: int, stages: int, chunks: int) -> tuple[int, Action] | None:
    """The stage, and its action, whose result an action needs.

    Args:
        action: what `stage` does.
        stage: the stage.
        stages: number of stages.
        chunks: number of chunks that a stage holds.

    Returns:
        None where the batch itself, or the loss, is all that is needed.
    """
    number = action.chunk * stages + stage
    if isinstance(action, Forward):
        if number == 0:
            return None
        chunk, other = divmod(number - 1, stages)
        return other, Forward(action.micro_batch, chunk)
    if number == stages * chunks - 1:
        return None
    chunk, other = divmod(number + 1, stages)
    return other, Backward(action.micro_batch, chunk)
