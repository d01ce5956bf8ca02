"""Ranks with unequal shares of the rows: an epoch over them is an epoch of one process."""

MODULES = ("reading", "trained", "resumed", "measured", "refused")
