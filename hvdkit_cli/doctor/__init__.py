"""Examine an installation: what is there, and what works."""

from hvdkit_cli.doctor.examine import examine

__all__ = ["examine"]
