"""Logs of steps of one's own, with other options of compile."""

from __future__ import annotations

from checks.sharding_models.own_logs import Guide, Trackers, compare, functional


def check_own_logs_with_options_of_compile() -> None:
    for options in ({"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}):
        for cls in (Guide, Trackers):
            said = compare(functional(cls), **options)
            # Of the logs nothing is said; that XLA leaves out a step of one's own is.
            assert not [text for text in said if "not compiled by XLA" not in text], said
