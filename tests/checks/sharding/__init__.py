"""Sharded data: an epoch over the ranks is an epoch of one process, to the last, uneven batch."""

MODULES = ("reading", "arrays", "evaluation", "metrics", "loops", "own_rows")
