"""Logs of steps of one's own, with other options of compile."""

from __future__ import annotations

from checks.sharding_models.own_logs import Guide, Trackers, compare, functional


def check_own_logs_with_options_of_compile() -> None:
    for options in ({"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}):
        for cls in (Guide, Trackers):
            assert not compare(functional(cls), **options)
