"""Exchanges with fewer rounds: local steps between meetings, and gradients one step late."""

MODULES = (
    "local_sgd",
    "local_sgd_outer",
    "local_sgd_groups",
    "local_sgd_slots",
    "local_sgd_fit",
    "local_sgd_refused",
    "delayed",
    "resumed",
)
