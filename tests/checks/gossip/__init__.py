"""Gossip between ranks, against the matrices of its graphs."""

MODULES = ("mixing", "push_sum", "fit")
