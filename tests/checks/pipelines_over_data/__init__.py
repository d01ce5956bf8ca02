"""Replicas of a pipeline: they train as one process does on the rows of all of them."""

MODULES = ("replicas",)
