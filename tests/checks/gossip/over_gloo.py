"""Gloo has no messages from rank to rank."""

from __future__ import annotations

import pytest
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import Gossip


@long
def check_it_is_an_error_when_it_is_made() -> None:
    with pytest.raises(hvd.HvdkitError, match=r"Gossip .* runs over Gloo.*mpirun"):
        Gossip("ring")
