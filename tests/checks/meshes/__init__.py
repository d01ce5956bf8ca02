"""Ranks laid out as data x pipeline x tensor, and what has to know it."""

MODULES = ("layouts", "training")
