"""One start of an elastic job, whose ranks come and go."""

from __future__ import annotations

import time

from hvdkit_cli.run.attempt import ORPHANED_SECONDS, Attempt
from hvdkit_cli.run.outcome import ElasticOutcome, End, Outcome, in_words
from hvdkit_cli.run.server import Peer

# The launcher has no use for this long without a rank when one has come to its end.
_IDLE_SECONDS = 30.0


class ElasticAttempt(Attempt):
    """Lets the launcher decide what it can do without, and watches over what it starts.

    A rank is known by its host and its number there: what rank it is changes while it runs.
    """

    def _outcome(self) -> Outcome:
        return ElasticOutcome(
            self._ends,
            launcher=self._launcher.returncode,
            launcher_ended_first=self._launcher_ended_first,
            hung=self._hung,
            signal=self._signals.first,
            seconds=time.monotonic() - self._started,
        )

    def _log(self, peer: Peer) -> str:
        return f"{peer.host}-{peer.slot}"

    def _on_came(self, peer: Peer, now: float) -> None:
        super()._on_came(peer, now)
        self._choose_leader()

    def _on_end(self, peer: Peer, end: End, now: float) -> None:
        self._server.tell([peer], "release")
        self._choose_leader()
        if end.is_fault and self._alive:
            self._terminal.say(f"hvdkit run: {end.who} {in_words(end)}; the others go on")

    def _choose_leader(self) -> None:
        names = sorted(self._log(peer) for peer in self._alive)
        if names and self._screen.leader not in names:
            self._screen.leader = names[0]

    def _must_end(self, now: float) -> bool:
        if self._launcher_ended_at is not None:
            return bool(self._alive) and now - self._launcher_ended_at > ORPHANED_SECONDS
        succeeded = [end.at for end in self._ends if end.status == 0]
        since = now - self._started - max((end.at for end in self._ends), default=0.0)
        return bool(succeeded) and not self._alive and since > _IDLE_SECONDS

    def _nobody_comes(self) -> bool:
        return self._told_at is not None or self._launcher_ended_at is not None
