"""What keeps a training from being faster, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from hvdkit_cli.scale.figures import Figures, in_cores

# Less is not worth a word: it is within what measuring again would change.
_WORTH = 0.05

_ADVICE: Mapping[str, str] = {
    "waiting for ranks": "ranks wait for slower ones",
    "exchange": "gradients are on their way",
    "waiting for data": "the next batch is not there in time",
    "rest": "callbacks, and Keras itself",
}


def limit_of(own: Figures, fewest: Figures, *, strong: bool) -> str:
    """What limits a number of ranks: what most of the lost time goes to.

    Args:
        own: its figures.
        fewest: those of the fewest ranks, which nothing is lost to by definition.
        strong: whether the batch stays as it is, so that a step should take less time.
    """
    if own.crowded is not None:
        return (
            f"the machine: {own.crowded}, so this says nothing about {_ranks(own.ranks)} that "
            "have their own"
        )
    parts, first = own.parts, fewest.parts
    if parts is None or first is None:
        return "not known: a step that XLA compiles as a whole does not tell where its time goes"
    step = sum(parts.values())
    if own.ranks == fewest.ranks:
        return _of_step(parts, step, own.ranks)
    ratio = own.ranks / fewest.ranks if strong else 1.0
    lost = {part: seconds - first[part] / ratio for part, seconds in parts.items()}
    most = max(lost, key=lambda part: lost[part])
    if lost[most] < _WORTH * step:
        return f"nothing that counts: {_percent(parts['compute'] / step)} of a step is compute"
    if most == "compute":
        factor = parts["compute"] * ratio / first["compute"]
        return (
            f"compute: the same rows take {factor:.2g} times as long as on {_ranks(fewest.ranks)}: "
            + _slower(own, fewest, strong=strong)
        )
    return _part(most, parts[most] / step, own.ranks)


def _slower(own: Figures, fewest: Figures, *, strong: bool) -> str:
    """Why the same rows may take longer."""
    cores, before = (sum(each.cores.values()) / each.ranks for each in (own, fewest))
    if cores < before:
        return f"a rank has {in_cores(cores)} here, and {in_cores(before)} there"
    if strong:
        return "a smaller batch fills a rank less, and the ranks share caches and memory"
    return "the ranks share caches and memory"


def _of_step(parts: Mapping[str, float], step: float, ranks: int) -> str:
    """Where nothing is compared: the largest part that is not compute, if it counts."""
    others = {part: seconds for part, seconds in parts.items() if part != "compute"}
    most = max(others, key=lambda part: others[part])
    if others[most] < _WORTH * step:
        return f"compute: {_percent(parts['compute'] / step)} of a step at {_ranks(ranks)}"
    return _part(most, others[most] / step, ranks)


def _part(part: str, share: float, ranks: int) -> str:
    return f"{part}: {_percent(share)} of a step at {_ranks(ranks)}: {_ADVICE[part]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
