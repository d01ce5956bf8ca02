"""Sharded data: what takes long to compare."""

MODULES = ("metrics_of_keras", "own_logs")
