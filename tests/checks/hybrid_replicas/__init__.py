"""Ranks of several local devices each (`MirroredStrategy`), against one process on all rows."""

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "2"}

MODULES = ("fits", "rules", "layers", "exchanges", "kept", "refused")
