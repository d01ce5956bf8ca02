"""Sharded data under options of fit and compile, and under models and steps of other kinds."""

MODULES = ("fit_options", "own_logs", "models")
