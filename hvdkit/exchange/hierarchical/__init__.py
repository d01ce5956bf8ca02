"""Two levels: a mean inside each host, an exchange between hosts, and its result inside again."""

from hvdkit.exchange.hierarchical.aggregator import Hierarchical

__all__ = ["Hierarchical"]
