"""Elastic training where no rank dies; those that do are in tests/faults."""

MODULES = ("state", "callbacks", "running")

# Each rank trains with weights of its own before the state is sent.
INIT = {"consistency_check": False}
