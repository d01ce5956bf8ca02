"""Ranks of several local devices each (`MirroredStrategy`), against one process on all rows."""

# The devices of other checks' ranks, which run these, too; here each rank trains on two.
ENVIRONMENT = {"CHECKS_CPU_DEVICES": "4"}

MODULES = ("fits", "rules", "layers", "exchanges", "kept", "refused")
