"""The `hvdkit` command: build Horovod for what is installed, and check an installation.

This package never imports hvdkit, TensorFlow or Horovod into its own process. It is what mends an
installation in which they do not import, so it looks at package metadata and starts subprocesses.
"""
