"""Examine an installation: what is there, and what works."""

from hvdkit_cli.doctor.examine import examine
from hvdkit_cli.doctor.hosts import examine_hosts

__all__ = ["examine", "examine_hosts"]
