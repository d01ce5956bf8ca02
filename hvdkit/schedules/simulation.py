"""A schedule, run with given times instead of a model."""

from __future__ import annotations

from hvdkit.schedules.actions import Action, Backward, Forward, Plan, source
from hvdkit.schedules.timeline import Span, Timeline


def simulate(
    plan: Plan,
    forward: float = 1.0,
    backward: float = 2.0,
    *,
    chunks: int = 1,
    transfer: float = 0.0,
) -> Timeline:
    """When each stage would do what, if all chunks took equally long.

    A stage does its actions in order, and each begins when the stage is free and its input has
    come: receives block, sends do not.

    Args:
        plan: for each stage its actions, as `Schedule.plan` gives them.
        forward: seconds of a forward pass of one micro-batch through one chunk.
        backward: seconds of a backward pass.
        chunks: how many chunks a stage holds.
        transfer: seconds from the end of an action until its result is at another stage.

    Raises:
        ValueError: the stages would wait for each other without end.

    Example:
        >>> plan = schedules.OneForwardOneBackward().plan(stages=4, micro_batches=8)
        >>> round(simulate(plan, forward=1, backward=2).bubble, 3)  # 3 / 11
        0.273
    """
    stages = len(plan)
    done: dict[tuple[int, Action], float] = {}
    spans: list[list[Span]] = [[] for _ in plan]
    next_up = [0] * stages

    def advance(stage: int) -> bool:
        """Do the actions of a stage until one has no input yet; returns whether it did any."""
        begun = next_up[stage]
        while next_up[stage] < len(plan[stage]):
            action = plan[stage][next_up[stage]]
            needed = source(action, stage, stages, chunks)
            if needed is not None and needed not in done:
                break
            arrival = 0.0 if needed is None else done[needed]
            if needed is not None and needed[0] != stage:
                arrival += transfer
            free = spans[stage][-1].end if spans[stage] else 0.0
            start = max(free, arrival)
            end = start + (forward if isinstance(action, Forward) else backward)
            spans[stage].append(Span(stage, action, start, end))
            done[stage, action] = end
            next_up[stage] += 1
        return next_up[stage] > begun

    while any(advance(stage) for stage in range(stages)):
        pass
    waiting = [stage for stage in range(stages) if next_up[stage] < len(plan[stage])]
    if waiting:
        waits = "; ".join(f"stage {s} for the input of {plan[s][next_up[s]]}" for s in waiting)
        raise ValueError(f"the stages of this plan wait for each other without end: {waits}.")
    return Timeline("simulated", stages, [span for own in spans for span in own])


def validate(plan: Plan, micro_batches: int, chunks: int = 1) -> None:
    """Check that a plan runs every micro-batch through every chunk, once forward and backward.

    Args:
        plan: for each stage its actions.
        micro_batches: number of micro-batches.
        chunks: how many chunks a stage holds.

    Raises:
        ValueError: an action is missing, comes twice or before its forward pass, or the stages
            would wait for each other without end.
    """
    pairs = [(m, c) for m in range(micro_batches) for c in range(chunks)]
    expected = [*(Forward(*pair) for pair in pairs), *(Backward(*pair) for pair in pairs)]
    for stage, actions in enumerate(plan):
        if sorted(map(repr, actions)) != sorted(map(repr, expected)):
            raise ValueError(
                f"stage {stage} does not run each of {micro_batches} micro-batches through each "
                f"of {chunks} chunks once forward and once backward."
            )
        seen: set[Action] = set()
        for action in actions:
            if isinstance(action, Backward):
                forward = Forward(action.micro_batch, action.chunk)
                if forward not in seen:
                    raise ValueError(f"stage {stage} runs {action} before {forward}.")
            seen.add(action)
    simulate(plan, chunks=chunks)
