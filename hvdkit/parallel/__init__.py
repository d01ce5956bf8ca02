"""One model over several devices and ranks."""

from hvdkit.parallel.layer_split import LayerSplit
from hvdkit.parallel.splitting import split

__all__ = ["LayerSplit", "split"]
