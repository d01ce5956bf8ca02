"""Schedules: in which order the stages of a pipeline run the micro-batches of a batch.

All of them end with a flush, so every micro-batch sees the same weights and the result is that of
the whole batch. They differ in how many micro-batches a stage keeps, and in how long it idles.
"""

from __future__ import annotations

from typing import Protocol

from hvdkit.schedules.actions import Action, Backward, Forward, Plan, source

__all__ = [
    "Action",
    "Backward",
    "Forward",
    "GPipe",
    "Interleaved",
    "OneForwardOneBackward",
    "Plan",
    "Schedule",
    "as_text",
    "bubble",
    "fitting",
    "in_flight",
    "source",
]


class Schedule(Protocol):
    """The order of the forward and backward passes of each stage.

    Attributes:
        chunks: how many chunks of the model a stage holds.
    """

    @property
    def chunks(self) -> int:
        """How many chunks of the model a stage holds."""
        ...

    def problem(self, stages: int, micro_batches: int) -> str | None:
        """Why there is no such schedule; None if there is one."""
        ...

    def plan(self, stages: int, micro_batches: int) -> Plan:
        """For each stage its actions, in order.

        Raises:
            ValueError: there is no such schedule.
        """
        ...


class GPipe:
    """All forward passes, then all backward passes.

    A stage keeps the activations of all micro-batches. Source: Huang et al., GPipe (2018),
    https://arxiv.org/abs/1811.06965

    Example:
        >>> print(schedules.as_text(schedules.GPipe(), stages=2, micro_batches=2))
        stage 0: F0 F1 B0 B1
        stage 1: F0 F1 B0 B1
    """

    chunks = 1

    def problem(self, stages: int, micro_batches: int) -> str | None:
        """Why there is no such schedule; None if there is one."""
        return _too_few(stages, micro_batches)

    def plan(self, stages: int, micro_batches: int) -> Plan:
        """For each stage its actions, in order."""
        _require(self, stages, micro_batches)
        forward: list[Action] = [Forward(m) for m in range(micro_batches)]
        backward: list[Action] = [Backward(m) for m in range(micro_batches)]
        return [forward + backward for _ in range(stages)]

    def __repr__(self) -> str:
        return "GPipe()"


class OneForwardOneBackward:
    """Each stage runs a backward pass as soon as it can, then the next forward pass (1F1B).

    It idles as long as with GPipe, but stage s of p keeps the activations of p - s micro-batches
    at most. Source: PipeDream-flush, Narayanan et al., https://arxiv.org/abs/2006.15704; the
    non-interleaved schedule of https://arxiv.org/abs/2104.04473.

    Example:
        >>> one_forward_one_backward = schedules.OneForwardOneBackward()
        >>> print(schedules.as_text(one_forward_one_backward, stages=2, micro_batches=3))
        stage 0: F0 F1 B0 F2 B1 B2
        stage 1: F0 B0 F1 B1 F2 B2
    """

    chunks = 1

    def problem(self, stages: int, micro_batches: int) -> str | None:
        """Why there is no such schedule; None if there is one."""
        return _too_few(stages, micro_batches)

    def plan(self, stages: int, micro_batches: int) -> Plan:
        """For each stage its actions, in order."""
        _require(self, stages, micro_batches)
        forward: list[Action] = [Forward(m) for m in range(micro_batches)]
        backward: list[Action] = [Backward(m) for m in range(micro_batches)]
        return [
            _alternating(forward, backward, warm_up=stages - 1 - stage) for stage in range(stages)
        ]

    def __repr__(self) -> str:
        return "OneForwardOneBackward()"


class Interleaved:
    """1F1B with several chunks of the model on each stage, which divides the idle time.

    Micro-batches go through the stages in rounds: each round through all chunks. A stage idles
    1 / `chunks` as long as with 1F1B, sends `chunks` times as much, and keeps more activations.
    Source: Narayanan et al. (2021), section 2.2, https://arxiv.org/abs/2104.04473; rounds of
    other than `stages` micro-batches as in PyTorch's `ScheduleInterleaved1F1B`.

    Args:
        chunks: how many chunks of the model a stage holds.

    Raises:
        ValueError: `chunks` is no integer above 1.

    Example:
        >>> print(schedules.as_text(schedules.Interleaved(2), stages=2, micro_batches=2))
        stage 0: F0 F1 F0.1 F1.1 B0.1 B1.1 B0 B1
        stage 1: F0 F1 F0.1 B0.1 F1.1 B1.1 B0 B1
    """

    def __init__(self, chunks: int = 2) -> None:
        if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 2:
            raise ValueError(f"Interleaved has an integer number of chunks above 1, not {chunks!r}")
        self.chunks = chunks

    def problem(self, stages: int, micro_batches: int) -> str | None:
        """Why there is no such schedule; None if there is one."""
        if problem := _too_few(stages, micro_batches):
            return problem
        rounds = _rounds(stages, micro_batches)
        if micro_batches % rounds == 0:
            return None
        return (
            f"{self!r} runs {micro_batches} micro-batches over {stages} stages in {rounds} rounds, "
            f"which do not divide them. A multiple of {stages} does."
        )

    def plan(self, stages: int, micro_batches: int) -> Plan:
        """For each stage its actions, in order."""
        _require(self, stages, micro_batches)
        size = micro_batches // _rounds(stages, micro_batches)
        total = micro_batches * self.chunks
        places = [(*divmod(step // size, self.chunks), step % size) for step in range(total)]
        forward: list[Action] = [
            Forward(turn * size + place, chunk) for turn, chunk, place in places
        ]
        backward: list[Action] = [
            Backward(turn * size + place, self.chunks - 1 - chunk) for turn, chunk, place in places
        ]
        ahead = (self.chunks - 1) * size
        return [
            _alternating(forward, backward, warm_up=ahead + 2 * (stages - 1 - stage))
            for stage in range(stages)
        ]

    def __repr__(self) -> str:
        return f"Interleaved({self.chunks})"


def bubble(schedule: Schedule, stages: int, micro_batches: int) -> float:
    """The part of the time in which stages idle, if all passes of a chunk take equally long.

    (p - 1) / (m + p - 1) for p stages and m micro-batches; with v chunks a stage
    (p - 1) / (v m + p - 1). Source: https://arxiv.org/abs/2104.04473, section 2.2, where the idle
    time is given in parts of the ideal time, (p - 1) / (v m).
    """
    return (stages - 1) / (schedule.chunks * micro_batches + stages - 1)


def in_flight(actions: list[Action]) -> int:
    """How many forward passes a stage keeps at most, until their backward passes."""
    kept = most = 0
    for action in actions:
        kept += 1 if isinstance(action, Forward) else -1
        most = max(most, kept)
    return most


def as_text(schedule: Schedule, stages: int, micro_batches: int) -> str:
    """The schedule, a line for each stage: F3.1 is the forward pass of micro-batch 3, chunk 1."""
    return "\n".join(
        f"stage {stage}: {' '.join(map(str, actions))}"
        for stage, actions in enumerate(schedule.plan(stages, micro_batches))
    )


def fitting(schedule: Schedule, stages: int, micro_batches: int) -> int:
    """The largest number of micro-batches, `micro_batches` at most, that the schedule runs."""
    return next(m for m in range(micro_batches, 0, -1) if schedule.problem(stages, m) is None)


def _alternating(forward: list[Action], backward: list[Action], warm_up: int) -> list[Action]:
    """`warm_up` forward passes, then one forward and one backward pass in turns, then the rest."""
    warm_up = min(warm_up, len(forward))
    pairs = zip(forward[warm_up:], backward, strict=False)
    steady = [action for pair in pairs for action in pair]
    return forward[:warm_up] + steady + backward[len(forward) - warm_up :]


def _rounds(stages: int, micro_batches: int) -> int:
    return max(1, micro_batches // stages)


def _too_few(stages: int, micro_batches: int) -> str | None:
    if stages < 1 or micro_batches < 1:
        return f"there is no pipeline of {stages} stages and {micro_batches} micro-batches."
    return None


def _require(schedule: Schedule, stages: int, micro_batches: int) -> None:
    if problem := schedule.problem(stages, micro_batches):
        raise ValueError(problem)
