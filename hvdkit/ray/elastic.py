"""An elastic job on Ray: workers that die are replaced, and the training goes on meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from hvdkit.errors import FunctionError, HvdkitError
from hvdkit.jobs.joining import JOIN
from hvdkit.jobs.keeper import Outcome
from hvdkit.jobs.membership import Membership
from hvdkit.jobs.outcomes import first_failure, result_of
from hvdkit.ray.datasets import Blocks
from hvdkit.ray.job import Job
from hvdkit.ray.workers import Workers, host_of

logger = logging.getLogger("hvdkit")
_NO_RANK = -1
_OTHERS_SECONDS = 30.0  # to come to the end, when the first rank has


def run_elastic(
    ray: Any, job: Job, blocks: Mapping[str, Blocks], least: int, max_failures: int
) -> Any:
    """Run a job whose workers are replaced when they die.

    Args:
        ray: the module, connected.
        job: what is to be run.
        blocks: its Datasets.
        least: with fewer workers the others wait.
        max_failures: how many workers may die.

    Returns:
        What the function returned on rank 0.

    Raises:
        FunctionError: too many workers have died, or all of them.
        HvdkitError: workers did not come in time.
    """
    with job.placed(ray, blocks) as workers, Membership(job.workers, least) as membership:
        return _Elastic(ray, job, workers, membership, max_failures).result()


class _Elastic:
    def __init__(
        self, ray: Any, job: Job, workers: Workers, membership: Membership, max_failures: int
    ) -> None:
        self._ray = ray
        self._job = job
        self._workers = workers
        self._membership = membership
        self._max_failures = max_failures
        self._driver = (ray.util.get_node_ip_address(), membership.port)
        self._actors: dict[int, tuple[Any, int]] = {}  # of a worker: its actor, and its place
        self._starting: dict[Any, tuple[int, float]] = {}  # the question where it is, and since
        self._running: dict[Any, int] = {}
        self._hosts: dict[int, str] = {}
        self._failures: list[tuple[int, Outcome]] = []
        self._finished: dict[int, Outcome] = {}  # by rank
        self._number = 0

    def result(self) -> Any:
        for place in range(self._job.workers):
            self._start(place)
        deadline = float("inf")
        while (self._running or self._starting) and time.monotonic() < deadline:
            done, _ = self._ray.wait([*self._starting, *self._running], timeout=0.5)
            for reference in done:
                if reference in self._starting:
                    self._begin(reference)
                else:
                    worker = self._running.pop(reference)
                    outcome = self._workers.outcome(reference, self._hosts[worker])
                    self._ended(worker, outcome)
            self._require_in_time()
            if self._finished and deadline == float("inf"):
                deadline = time.monotonic() + _OTHERS_SECONDS
            if self._finished and 0 in self._finished and not self._ranks_running():
                break
        if 0 in self._finished:
            return result_of(self._finished[0])
        if not self._failures:
            raise HvdkitError(
                f"rank {min(self._finished)} has returned, and {_OTHERS_SECONDS:g} s later rank 0 "
                "still has not: the function has to end on all ranks."
            )
        raise self._failure("rank 0 has failed at the end")

    def _start(self, place: int) -> None:
        actor = self._workers.start(place)
        self._actors[self._number] = actor, place
        self._starting[actor.where.remote()] = self._number, time.monotonic()
        self._number += 1

    def _begin(self, asked: Any) -> None:
        worker, _ = self._starting.pop(asked)
        actor, _ = self._actors[worker]
        try:
            where = self._workers.place_of(asked, worker)
        except HvdkitError as error:
            if not self._membership.rounds:
                raise
            self._ended(worker, Outcome(1, None, "not known", 0, [str(error)]))
            return
        self._hosts[worker] = host_of(where)
        self._membership.add(worker, self._hosts[worker])
        env = {**self._job.env, "HOROVOD_ELASTIC": "1", JOIN: str(worker)}
        name = f"worker {worker}"
        self._running[actor.keep.remote(self._job.call, env, self._driver, name)] = worker

    def _ended(self, worker: int, outcome: Outcome) -> None:
        ranks = self._membership.ranks()
        if not outcome.failed:
            self._finished[ranks[worker]] = outcome
            return
        self._membership.remove(worker)
        self._failures.append((ranks.get(worker, _NO_RANK), outcome))
        actor, place = self._actors.pop(worker)
        self._workers.end(actor)
        if self._finished:
            return
        if not self._membership.ranks() and self._membership.rounds:
            raise self._failure("all workers have failed")
        if len(self._failures) > self._max_failures:
            raise self._failure(f"more than {self._max_failures} workers failed (max_failures)")
        logger.warning(
            "hvdkit: worker %d (host %s) has failed, status %d; the others go on, and another one "
            "is started.",
            worker,
            outcome.host,
            outcome.status,
        )
        self._start(place)

    def _ranks_running(self) -> bool:
        ranks = self._membership.ranks()
        return any(worker in ranks for worker in self._running.values())

    def _failure(self, why: str) -> FunctionError:
        """The first error that was told, or the last failure."""
        by_rank = dict(reversed(self._failures))
        failure = first_failure(by_rank)
        assert failure is not None
        text = str(failure).replace(f"rank {_NO_RANK}", "a worker that was no rank yet", 1)
        error = FunctionError(f"{why}; {text}", failure.rank)
        error.__cause__ = failure.__cause__
        return error

    def _require_in_time(self) -> None:
        """Raise HvdkitError where ranks have waited too long for others."""
        limit, now = self._job.limit, time.monotonic()
        late = [worker for worker, since in self._starting.values() if now - since > limit]
        too_late = self._membership.waited() > limit or (late and not self._membership.rounds)
        if self._finished or not too_late:
            return
        absent = self._membership.absent()
        named = ", ".join(
            [f"worker {worker} (host {host})" for worker, host in absent.items()]
            + [f"worker {worker} (not on any node yet)" for worker in late]
        )
        raise HvdkitError(
            f"workers have waited {limit:g} s for others (start_timeout): "
            + (f"{named} did not come" if named else "there are fewer than min_workers")
            + ". What the workers printed, and `ray list actors`, tell more."
        )
