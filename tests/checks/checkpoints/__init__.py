"""Checkpoints: what is saved, what comes back, and what is refused."""

MODULES = (
    "resuming",
    "positions",
    "damage",
    "callbacks",
    "loops",
    "outside_variables",
    "several_optimizers",
    "trackers",
)
# Horovod fuses by timing, and the order of a sum over 3 ranks follows from what is fused.
ENVIRONMENT = {"HOROVOD_FUSION_THRESHOLD": "0"}
