"""Exchanges that hvdkit knows nothing of: used, refused, saved, sent and compared.

`kinds.py` holds them. Nothing in hvdkit was written for one of them.
"""

MODULES = ("aggregated", "local_steps", "sharded_rows", "refusals", "arguments", "kept")
