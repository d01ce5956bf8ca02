"""Ranks that stay, and run one check after another.

Starting ranks costs seconds, so checks that need the same ranks run on the same processes, one at
a time, as pytest asks for them. A check that fails, or that does not end, ends these ranks, and the
next one gets new ones. So does a check after which the ranks are not as they were, see
`tests/rank_state.py`. Only one pool is open at a time: ranks that wait still use their cores.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import forks
import seconds_spent
from launch import end_job, environment, launch_command, start_command
from rank_checks import Check, Ranks

START_SECONDS = 120
CHECK_SECONDS = 240
# As many ranks as cores keep the cores busy with Horovod's threads, which go on without a sleep;
# what takes long in checks is Python.
_SLEEP = {"HOROVOD_CYCLE_TIME": "0.2"}
# How long the other ranks may go on after one has failed; mostly they wait for it.
GRACE_SECONDS = 5
_SHOWN_CHARACTERS = 20_000


class ChecksFailed(AssertionError):
    """A check failed on some ranks, or did not end."""


class RankPool:
    """One job, whose ranks run checks until it is closed.

    Args:
        ranks: what is started.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        started = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="hvdkit-"))
        self._printed = (self._folder / "output").open("w+", errors="replace")
        self._connections: list[Connection] = []
        address = str(self._folder / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(ranks.count)
        self._listener.settimeout(0.2)
        arguments = [address, json.dumps(dict(ranks.init))]
        variables = {**_SLEEP, **dict(ranks.environment)}
        python = forks.interpreter(environment(variables))
        command = [*python, "tests/worker.py", "--pool", *arguments]
        # What checks leave behind goes with the pool.
        (self._folder / "tmp").mkdir()
        variables["TMPDIR"] = str(self._folder / "tmp")
        self._job = start_command(
            launch_command(ranks.launcher, ranks.count, command), self._printed, variables
        )
        try:
            self._connections = self._accept(started + START_SECONDS)
        except BaseException:
            self.close()
            raise
        seconds_spent.pool_started(str(ranks), time.monotonic() - started)

    def _accept(self, deadline: float) -> list[Connection]:
        """A connection to each rank, in their order."""
        found: dict[int, Connection] = {}
        while len(found) < self.ranks.count:
            try:
                connection = Connection(self._listener.accept()[0].detach())
            except TimeoutError:
                if self._job.poll() is not None or time.monotonic() > deadline:
                    raise ChecksFailed(f"the ranks did not start; {self._described(0)}") from None
                continue
            found[connection.recv()] = connection
        return [found[rank] for rank in range(self.ranks.count)]

    def run(self, check: Check, seconds: float = CHECK_SECONDS) -> bool:
        """Run a check on all ranks, and wait until each has said how it went.

        Returns:
            Whether these ranks can run another one.

        Raises:
            ChecksFailed: with the errors of the ranks, or what they printed.
        """
        began = self._printed.seek(0, 2)
        started = time.monotonic()
        for connection in self._connections:
            connection.send((check.file, check.name))
        answers = self._answers(started + seconds)
        spent = time.monotonic() - started
        errors = {rank: answer["error"] for rank, answer in answers.items() if answer["error"]}
        missing = [rank for rank in range(self.ranks.count) if rank not in answers]
        cpu = sum(answer["cpu"] for answer in answers.values())
        seconds_spent.check_ended(str(self.ranks), str(check), spent, cpu)
        if errors:
            raise ChecksFailed("\n".join(f"rank {r}: {error}" for r, error in errors.items()))
        if missing:
            how = f"within {seconds:.0f} s" if spent >= seconds else "and ended"
            raise ChecksFailed(f"ranks {missing} did not end it {how}; {self._described(began)}")
        return all(answer["reusable"] for answer in answers.values())

    def _answers(self, deadline: float) -> dict[int, dict[str, Any]]:
        """What each rank reports, until all have, one has failed, or time is up."""
        answers: dict[int, dict[str, Any]] = {}
        open_ranks = dict(enumerate(self._connections))
        while open_ranks and (left := deadline - time.monotonic()) > 0:
            for ready in wait(list(open_ranks.values()), timeout=left):
                rank = next(r for r, connection in open_ranks.items() if connection is ready)
                del open_ranks[rank]
                try:
                    answers[rank] = ready.recv()
                except (EOFError, ConnectionError):
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                    continue
                if answers[rank]["error"]:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        return answers

    def _described(self, begin: int) -> str:
        self._printed.flush()
        self._printed.seek(begin)
        printed = self._printed.read()[-_SHOWN_CHARACTERS:]
        status = self._job.poll()
        end = "runs" if status is None else f"ended with exit status {status}"
        return f"the job {end}; it printed:\n{printed}"

    def close(self) -> None:
        """End the ranks."""
        end_job(self._job)
        for connection in self._connections:
            connection.close()
        self._listener.close()
        self._printed.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class RankPools:
    """The one pool that is open, which is replaced when a check needs another."""

    def __init__(self) -> None:
        self._open: RankPool | None = None

    def require(
        self,
        check: Check,
        *,
        env: Mapping[str, str] | None = None,
        seconds: float = CHECK_SECONDS,
    ) -> None:
        """Fail unless every rank passes the check.

        Args:
            check: what to run.
            env: more variables of the ranks' environment.
            seconds: after which the check has failed.
        """
        ranks = check.ranks.with_environment(env or {})
        if self._open is not None and self._open.ranks != ranks:
            self.close()
        if self._open is None:
            self._open = RankPool(ranks)
        reusable = False
        try:
            reusable = self._open.run(check, seconds)
        finally:
            if not reusable:
                self.close()

    def close(self) -> None:
        """End the ranks of the open pool."""
        if self._open is not None:
            self._open.close()
            self._open = None
