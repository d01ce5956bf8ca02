"""Keras optimizers and gradient tapes that reduce over ranks."""
