"""hvdkit.spark.run: call a function on ranks in a barrier stage of Spark."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle

from hvdkit.errors import HvdkitError
from hvdkit.jobs.keeper import Outcome
from hvdkit.jobs.outcomes import first_failure, result_of
from hvdkit.jobs.rendezvous import Rendezvous
from hvdkit.spark.installed import spark_session
from hvdkit.spark.task import ATTEMPT, FAILED, SCHEMA, TASKS, Task

_END_SECONDS = 10.0  # for tasks to end their ranks, and to remove their files
_CANCEL_SECONDS = 30.0


def run(
    train: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    num_proc: int = 2,
    *,
    df: Any = None,
    columns: Sequence[str] | None = None,
    spark: Any = None,
    start_timeout: float = 120,
    env: Mapping[str, str] | None = None,
    all_results: bool = False,
) -> Any:
    """Call a function on ranks of a Spark cluster, and return what it returned on rank 0.

    The ranks are the tasks of one barrier stage, which Spark starts all at once. A task looks
    after its rank, which is a process of its own beside it, in which the function calls
    `hvd.init()`, as a script does. The ranks talk over Gloo and find each other in the driver,
    which loads neither TensorFlow nor Horovod. Where Spark loses a task, it starts all of them
    again (`spark.stage.maxConsecutiveAttempts`); with `hvd.callbacks.BackupAndRestore` the
    training goes on from its last checkpoint.

    Args:
        train: the function. Those of a script or notebook, and lambdas, are sent as they are, with
            the variables that they use; others are imported by the ranks.
        args: its positional arguments.
        kwargs: its keyword arguments.
        num_proc: number of ranks; each takes a slot of Spark's (`spark.task.cpus` cores).
        df: a DataFrame, whose rows are spread over the ranks, which take them with
            `hvdkit.spark.get_shard(...)`.
        columns: those columns of it that are sent; default: all.
        spark: the session; default: the active one, or a new one.
        start_timeout: seconds that all tasks, when the DataFrame is computed, and each rank's
            `hvd.init()`, once another rank is there, may take to come.
        env: variables of the ranks' environment, added to those of Spark's workers.
        all_results: return the results of all ranks, as a list in their order.

    Returns:
        What the function returned on rank 0.

    Raises:
        FunctionError: the function raised an error on a rank, or a rank ended without a result.
        InstallationError: PySpark or Java is missing, or too old.
        HvdkitError: Spark has fewer slots than ranks; a rank did not come in time; or the stage
            failed.
        ValueError: an argument is out of range.

    Example:
        >>> def train(epochs):
        ...     hvd.init()
        ...     model = build()
        ...     rows = hvd.spark.get_shard(x="features", y="label", batch_size=32)
        ...     start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        ...     model.fit(rows, epochs=epochs, callbacks=[start])
        ...     return model.get_weights()
        >>> weights = hvd.spark.run(train, args=(3,), num_proc=4, df=df)
    """
    if num_proc < 1 or start_timeout <= 0:
        raise ValueError(
            "num_proc is the number of ranks, at least 1, and start_timeout is above 0, not "
            f"{num_proc} and {start_timeout}."
        )
    if df is None and columns is not None:
        raise ValueError("columns are those of df, which is missing.")
    session = spark_session(spark or getattr(df, "sparkSession", None))
    call = cloudpickle.dumps((train, tuple(args), dict(kwargs or {})))
    environment = {"PYTHONUNBUFFERED": "1", **(env or {}), "HVDKIT_STARTED_BY": "spark"}
    sent = None if df is None else tuple(df.columns if columns is None else columns)
    if sent is None:
        rows = session.range(num_proc, numPartitions=num_proc)
    else:
        rows = df.select(*sent).repartition(num_proc)
    with _Attempts(num_proc) as rendezvous:
        address = session.sparkContext.getConf().get("spark.driver.host")
        task = Task(call, address, rendezvous.port, environment, sent)
        stage = _Stage(session, rows.mapInArrow(task, SCHEMA, barrier=True))
        outcomes = _finished(stage, rendezvous, num_proc, start_timeout)
    if (failure := first_failure(outcomes)) is not None:
        raise failure
    if len(outcomes) < num_proc:
        raise HvdkitError(f"df has no rows: {len(outcomes)} of {num_proc} tasks were started.")
    results = [result_of(outcomes[rank]) for rank in range(num_proc)]
    return results if all_results else results[0]


class _Attempts(Rendezvous):
    """The store of a stage that Spark may start again.

    Args:
        size: how many tasks it has.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._attempts: set[str] = set()
        self._new_attempt = threading.Lock()
        self._over = float("inf")
        self.tasks: dict[int, str] = {}  # host of each that has come

    def get(self, scope: str, key: str) -> bytes | None:
        """See `Rendezvous.get`."""
        if scope == FAILED:
            return b"" if time.monotonic() > self._over else None
        return super().get(scope, key)

    def end_in(self, seconds: float) -> None:
        """Let the tasks end their ranks."""
        self._over = min(self._over, time.monotonic() + seconds)

    def put(self, scope: str, key: str, value: bytes) -> None:
        """See `Rendezvous.put`; tasks say that they have come, and the first one that all have."""
        if scope == TASKS:
            self.tasks[int(key)] = value.decode()
        elif scope == ATTEMPT:
            with self._new_attempt:
                if key not in self._attempts:
                    self._attempts.add(key)
                    self._over = float("inf")
                    self.clear()
        elif scope == FAILED:
            self.end_in(self.grace(self._size))
        else:
            super().put(scope, key, value)


class _Stage(threading.Thread):
    """The stage, in a thread, so that it can be cancelled.

    Args:
        session: Spark's.
        outcomes: a DataFrame of the outcomes, computed here.
    """

    def __init__(self, session: Any, outcomes: Any) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self.outcomes: dict[int, Outcome] = {}
        self.context = session.sparkContext
        self._frame = outcomes
        self._group = f"hvdkit-{uuid.uuid4()}"

    def run(self) -> None:
        """Wait for all tasks."""
        self.context.setJobGroup(self._group, "hvdkit.spark.run", interruptOnCancel=True)
        try:
            rows = self._frame.collect()
        except Exception as error:  # raised in the caller's thread
            self.error = error
            return
        self.outcomes = {row["rank"]: pickle.loads(row["outcome"]) for row in rows}

    def at_work(self) -> bool:
        """Whether tasks run, of this stage or of what computes the DataFrame before it."""
        tracker = self.context.statusTracker()
        jobs = map(tracker.getJobInfo, tracker.getJobIdsForGroup(self._group))
        stages = (tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds)
        return any(stage.numActiveTasks > 0 for stage in stages if stage)

    def cancel(self) -> None:
        """End all tasks, and their ranks with them."""
        self.context.cancelJobGroup(self._group)
        self.join(_CANCEL_SECONDS)


def _finished(stage: _Stage, rendezvous: _Attempts, size: int, limit: float) -> dict[int, Outcome]:
    """How all ranks have ended.

    Raises:
        HvdkitError: the stage failed, or tasks or ranks did not come in time.
    """
    stage.start()
    deadline = time.monotonic() + limit
    try:
        while stage.is_alive():
            stage.join(0.2)
            if not rendezvous.tasks and stage.at_work():
                deadline = time.monotonic() + limit
            if len(rendezvous.tasks) < size and time.monotonic() > deadline:
                raise HvdkitError(_too_few_slots(stage.context, rendezvous, size, limit))
            if late := rendezvous.missing(size, limit):
                raise HvdkitError(
                    f"rank {', '.join(map(str, late))} of {size} did not come to hvd.init() within "
                    f"{limit:g} s of the first one (start_timeout). Every rank has to call it "
                    "once; what the ranks printed tells where this one is."
                )
    finally:
        if stage.is_alive() and rendezvous.tasks:
            rendezvous.end_in(0)
            stage.join(_END_SECONDS)
        if stage.is_alive():
            stage.cancel()
    if stage.error is not None:
        raise HvdkitError(f"Spark's stage has failed: {stage.error}") from stage.error
    return stage.outcomes


def _too_few_slots(context: Any, rendezvous: _Attempts, size: int, limit: float) -> str:
    came = ", ".join(f"{task} on {host}" for task, host in sorted(rendezvous.tasks.items()))
    return (
        f"Spark did not start {size} tasks at once within {limit:g} s (start_timeout); "
        f"{f'it started {came}' if came else 'it started none'}. A barrier stage needs a free "
        f"slot for each rank; the master is {context.master}, with {context.defaultParallelism} "
        "slots. Ask for fewer ranks (num_proc), or give Spark more cores or executors; jobs that "
        "run beside this one take slots, too."
    )
