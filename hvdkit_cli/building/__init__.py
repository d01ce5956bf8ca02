"""Build Horovod for what is installed, and install it."""

from hvdkit_cli.building.command import Options, build

__all__ = ["Options", "build"]
