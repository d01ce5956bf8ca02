"""Sharding input over ranks."""
