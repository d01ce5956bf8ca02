"""Where in an epoch `fit` starts.

Keras can start at an epoch, and no later. A callback that knows how many batches of the epoch
have been trained on says so in `on_epoch_begin`; the hook around Keras's iterator then reads them
and passes them over, so the numbers of the batches go on where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_to_pass_over = 0


def pass_over(batches: int) -> None:
    """Let the epoch that `fit` starts now begin after some batches.

    Args:
        batches: how many of its batches have been trained on before.
    """
    global _to_pass_over
    _to_pass_over = batches


def remaining_steps(original: Callable[..., Any], epoch_iterator: Any) -> Iterator[Any]:
    """Keras's steps of an epoch, without those that are to be passed over.

    Args:
        original: Keras's generator of (first batch, last batch, iterator over batches).
        epoch_iterator: what it is a method of.
    """
    global _to_pass_over
    done, _to_pass_over = _to_pass_over, 0
    for first, last, batches in original(epoch_iterator):
        if last >= done:
            yield first, last, batches
            continue
        for _ in range(last - first + 1):
            if next(batches, None) is None:
                return
