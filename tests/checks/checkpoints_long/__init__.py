"""Checkpoints of many kinds of data and variables; they take long."""

MODULES = ("kinds", "gans")
ENVIRONMENT = {"HOROVOD_FUSION_THRESHOLD": "0"}
