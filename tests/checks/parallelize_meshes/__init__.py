"""Meshes of four ranks."""

MODULES = ("meshes",)
