"""hvd.elastic.run: call the training function again whenever the ranks have changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import (
    CollectiveError,
    explained_in_graph,
    logger,
    require_initialized,
    topology,
)
from hvdkit.engine.elastic import (
    HorovodInternalError,
    HostsUpdatedInterrupt,
    count_world,
    find_each_other_again,
    is_elastic,
    listening,
)

Arguments = ParamSpec("Arguments")
State = TypeVar("State", bound=ObjectState)
Result = TypeVar("Result")


def run(
    func: Callable[Concatenate[State, Arguments], Result],
) -> Callable[Concatenate[State, Arguments], Result]:
    """Decorate a training function so that the job survives ranks that die, and takes new ones.

    Before `func` starts, all ranks get the same state. When a rank has died, the others put their
    last commit back, find each other again, and call `func` anew. When ranks can join or have to
    leave, they do the same at the next commit, and lose nothing. `func` has to go on from what
    the state says, such as `state.epoch`.

    Outside of `func` no rank may call collectives (or `hvd.shard`) before the training is done:
    one that joins later would call them alone. What depends on the values of `hvd.size()` and
    `hvd.rank()` is made inside `func`, so that it is made anew. A `tf.function` that reduces with
    `hvd.DistributedGradientTape` or hvdkit's collectives may be made outside: it reads the
    number of ranks when it runs.

    In a job that is not elastic (`mpirun`, `horovodrun` without `--min-np`, one process) `func`
    runs once, and a rank that dies is an error.

    Args:
        func: a function whose first argument is the state (`KerasState`, `ObjectState`).

    Returns:
        A function with the same arguments and result.

    Raises:
        CollectiveError: a rank was lost in a job that is not elastic.
        NotInitializedError: `init` has not been called.

    Example:
        >>> @hvd.elastic.run
        ... def train(state):
        ...     data = hvd.shard((x, y), batch_size=32)
        ...     model.fit(data, initial_epoch=state.epoch, epochs=10, callbacks=callbacks)
    """
    return run_fn(func, find_each_other_again)


def run_fn(
    func: Callable[Concatenate[State, Arguments], Result], reset: Callable[[], None]
) -> Callable[Concatenate[State, Arguments], Result]:
    """`run` with a function of one's own that leaves the present ranks and becomes one of the next.

    Args:
        func: see `run`.
        reset: called when the ranks have changed; `run` shuts Horovod down and starts it again.

    Returns:
        A function with the same arguments and result.
    """

    @functools.wraps(func)
    def trained(state: State, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        require_initialized("hvd.elastic.run")
        with listening(state):
            while True:
                try:
                    with explained_in_graph("the training function"):
                        state.sync()
                        return func(state, *args, **kwargs)
                except (CollectiveError, HorovodInternalError) as error:
                    if not is_elastic():
                        raise
                    logger.warning(
                        "hvdkit: rank %d goes back to its last commit and waits for the other "
                        "ranks: %s",
                        topology.rank(),
                        error,
                    )
                    state.restore()
                except HostsUpdatedInterrupt:
                    if topology.rank() == 0:
                        logger.info("hvdkit: the hosts of this job have changed.")
                reset()
                count_world()
                if topology.rank() == 0:
                    logger.info("hvdkit: training goes on; ranks: %d.", topology.size())
                state.on_reset()

    return trained
