"""Callbacks on real ranks."""

MODULES = ("of_hvdkit", "of_keras")
