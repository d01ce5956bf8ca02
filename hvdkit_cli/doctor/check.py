"""One line of what the doctor finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: "ok", "fail", or "skip" where it does not apply here.
        detail: What was found.
        remedy: What to do about a failure; empty otherwise.
        measured: Figures with their units in their names; empty where nothing was measured.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether this line makes the doctor's exit status 1."""
        return self.status == "fail"


def ok(name: str, detail: str) -> Check:
    """Return a finding that something is as it should be."""
    return Check(name, "ok", detail)


def fail(name: str, detail: str, remedy: str) -> Check:
    """Return a finding that something is wrong, with what to do about it."""
    return Check(name, "fail", detail, remedy)


def skip(name: str, detail: str) -> Check:
    """Return a finding that something does not apply here."""
    return Check(name, "skip", detail)
