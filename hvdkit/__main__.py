"""`python -m hvdkit` is the `hvdkit` command, which needs neither TensorFlow nor Horovod."""

import sys

from hvdkit_cli.main import main

sys.argv[0] = "hvdkit"
main()
