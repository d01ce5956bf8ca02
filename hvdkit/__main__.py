"""`python -m hvdkit` is the `hvdkit` command."""

from hvdkit_cli.main import main

main()
