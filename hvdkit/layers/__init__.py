"""Keras layers that talk to other ranks."""
