"""One model over several devices and ranks."""

from hvdkit.parallel.layer_split import LayerSplit

__all__ = ["LayerSplit"]
