"""Sharded data: an epoch over the ranks is an epoch of one process, to the last, uneven batch."""

MODULES = (
    "reading",
    "arrays",
    "fit_options",
    "datasets",
    "pydatasets",
    "evaluation",
    "metrics",
    "own_logs",
    "models",
    "loops",
)
