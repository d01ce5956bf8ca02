"""Ask another host over ssh what it has."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit_cli.doctor import facts as facts_module
from hvdkit_cli.doctor.check import Check, fail, ok

_CONNECT_SECONDS = 5
_LINES = 3

# What ssh says, and what to do.
_REMEDIES = (
    ("could not resolve hostname", "check the name's spelling, DNS and /etc/hosts"),
    ("connection refused", "start sshd there; another port belongs into ~/.ssh/config"),
    ("timed out", "check that the host is up and that a firewall lets ssh through"),
    ("no route to host", "check that the host is up and on this network"),
    ("host key verification", "log in once by hand to take the host's key, or use ssh-keyscan"),
    ("permission denied", "put a key without a passphrase there: ssh-copy-id"),
    ("no such file", "install hvdkit at the same path there, or share the folder"),
    ("not found", "install hvdkit at the same path there, or share the folder"),
)
_REMEDY = "make `ssh HOST true` work from here without a password"


@dataclass(frozen=True)
class Answer:
    """What a host has said.

    Attributes:
        facts: What it has, see `facts.facts`; None if it did not say.
        check: Whether it could be reached.
        ahead: By how many seconds its clock is ahead of this host's.
        seconds: How long the answer took; `ahead` is right to half of that.
    """

    facts: dict[str, Any] | None
    check: Check
    ahead: float = 0.0
    seconds: float = 0.0


def ask(host: str, env: Mapping[str, str], timeout: float) -> Answer:
    """Let a host say what it has.

    Args:
        host: Its name or address.
        env: This process's environment: ssh finds its agent there, PYTHONPATH goes along.
        timeout: Seconds until it has to have answered.
    """
    name = f"{host}: ssh"
    start = time.time()
    try:
        done = subprocess.run(
            _command(host, env),
            input=Path(facts_module.__file__).read_text(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=dict(env),
        )
    except subprocess.TimeoutExpired:
        return Answer(None, fail(name, f"no answer within {timeout:g} s", _remedy("timed out")))
    except OSError as error:
        return Answer(None, fail(name, f"ssh could not start: {error}", "install openssh-client"))
    end = time.time()
    found = [line for line in done.stdout.splitlines() if line.startswith(facts_module.MARK)]
    if done.returncode != 0 or not found:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LINES:])
        detail = f"exit status {done.returncode}: {said}"
        return Answer(None, fail(name, detail, _remedy(said)))
    facts = json.loads(found[0].removeprefix(facts_module.MARK))
    # The host looks at its clock last of all.
    return Answer(
        facts, ok(name, f"reached as {facts['hostname']}"), facts["time"] - end, end - start
    )


def is_here(host: str) -> bool:
    """Whether a name is this host's own: a launcher needs no ssh to it."""
    return host in ("localhost", "127.0.0.1", socket.gethostname())


def _command(host: str, env: Mapping[str, str]) -> list[str]:
    python = [sys.executable, "-"]
    if is_here(host):
        return python
    if paths := env.get("PYTHONPATH"):
        absolute = os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep))
        python = ["env", f"PYTHONPATH={absolute}", *python]
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
    return ["ssh", *options, host, shlex.join(python)]


def _remedy(said: str) -> str:
    words = said.lower()
    return next((remedy for text, remedy in _REMEDIES if text in words), _REMEDY)
