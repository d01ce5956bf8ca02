"""How a start of a job ended, and what that means."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

# What ranks end with that have saved because they were asked to.
SAVED = 75
_FAILED = 1
# What dies by a signal within this of the first failure was dying before: it dumped its core.
_TOGETHER_SECONDS = 1.0


@dataclass(frozen=True)
class End:
    """How a rank ended.

    Attributes:
        rank: the rank.
        who: the rank with its host and process id, in words.
        log: the name of its log.
        status: its exit status, or minus the signal that ended it; None where it was lost.
        at: seconds from the start.
        told: whether the supervisor had told it to end, because of another one.
        signalled: whether the launcher, or a scheduler, had sent a signal to it.
        silent: for one that was lost, whether its host does not answer.
        why: for one that was lost, how that shows.
    """

    rank: int
    who: str
    log: str
    status: int | None
    at: float
    told: bool = False
    signalled: bool = False
    silent: bool = False
    why: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the job has failed by this."""
        return self.status != 0 and (not self.told or self.silent)

    @property
    def is_by_launcher(self) -> bool:
        """Whether the launcher has ended it, as it does when another rank is gone."""
        return self.signalled and not self.silent and self.status in (None, -signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """How a start of a job ended.

    Attributes:
        ends: how the ranks ended, in that order.
        missing: ranks that have not come, with their hosts where these are known.
        launcher: exit status of the launcher, or minus a signal.
        launcher_ended_first: whether it ended while ranks were running or had not come.
        hung: whether the launcher had to be ended.
        signal: the first signal that asked the job to end; None where there was none.
        seconds: how long it took.
    """

    ends: Sequence[End]
    missing: Sequence[str] = ()
    launcher: int = 0
    launcher_ended_first: bool = False
    hung: bool = False
    signal: signal.Signals | None = None
    seconds: float = 0.0

    @property
    def cause(self) -> End | None:
        """The rank's end by which the job failed; None where no rank has failed."""
        faults = [end for end in self.ends if end.is_fault]
        faults = [end for end in faults if not end.is_by_launcher] or faults
        if not faults:
            return None
        gone = [end for end in faults if end.silent]
        together = [
            end
            for end in faults
            if (end.status is None or end.status < 0) and end.at - faults[0].at < _TOGETHER_SECONDS
        ]
        return [*gone, *together, *faults][0]

    @property
    def is_success(self) -> bool:
        """Whether every rank has said that it ended with exit status 0."""
        return not self.missing and bool(self.ends) and all(e.status == 0 for e in self.ends)

    @property
    def has_not_started(self) -> bool:
        """Whether ranks have not come, and no other rank has failed by itself."""
        cause = self.cause
        return bool(self.missing) and (cause is None or cause.is_by_launcher)

    @property
    def launcher_was_killed(self) -> bool:
        """Whether a signal has ended the launcher, or the mpirun that a shell has waited for."""
        by_shell = self.launcher - 128 in set(signal.Signals)
        return self.launcher_ended_first and (self.launcher < 0 or by_shell)

    @property
    def lost_its_launcher(self) -> bool:
        """Whether the ranks have ended only because the launcher was killed."""
        ended = {end.status for end in self.ends if end.is_fault}
        return self.launcher_was_killed and ended <= {None, -signal.SIGTERM, -signal.SIGKILL}

    @property
    def ended_by_launcher(self) -> bool:
        """Whether the launcher has ended all ranks itself, as after MPI_Abort."""
        faults = [end for end in self.ends if end.is_fault]
        by_launcher = bool(faults) and all(end.is_by_launcher for end in faults)
        return self.launcher_ended_first and not self.launcher_was_killed and by_launcher

    def status(self) -> int:
        """The exit status of the whole job."""
        found = self._status()
        if self.signal not in (None, signal.SIGUSR1) and found not in (0, SAVED):
            return 128 + int(self.signal)
        return found

    def _status(self) -> int:
        if self.is_success:
            return 0
        if self.has_not_started or self.ended_by_launcher:
            return self.launcher if self.launcher > 0 else _FAILED
        cause = self.cause
        if cause is None or cause.status is None:
            return _FAILED
        return cause.status if cause.status > 0 else 128 - cause.status

    def is_fault_of_machines(self) -> bool:
        """Whether the same job may well succeed if it is started again.

        A process that was killed, a host that is gone, a launcher that died, ranks that did not
        come, or ranks that have saved although nobody has asked `hvdkit run`. Not an error of the
        script, which would come again.
        """
        if self.is_success or self.signal is not None:
            return False
        if self.has_not_started or self.launcher_was_killed:
            return True
        cause = self.cause
        if cause is None or self.ended_by_launcher:
            return False
        return cause.status is None or cause.status < 0 or cause.status == SAVED


@dataclass(frozen=True)
class ElasticOutcome(Outcome):
    """How an elastic job ended: the launcher knows which ranks it could do without."""

    @property
    def is_success(self) -> bool:
        """Whether the launcher says so, and a rank as well."""
        return self.launcher == 0 and any(end.status == 0 for end in self.ends)

    def _status(self) -> int:
        if self.is_success:
            return 0
        return self.launcher if self.launcher > 0 else _FAILED


def in_words(end: End) -> str:
    """How a rank ended, to complete "rank 1 ..."."""
    if end.status is None:
        return f"was lost: {end.why}"
    if end.status >= 0:
        return f"ended with exit status {end.status}"
    number = -end.status
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    return f"was ended by signal {number} ({name})"
