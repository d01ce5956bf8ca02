"""Sharded optimizers: each rank updates its share of the weights with its share of the slots."""
