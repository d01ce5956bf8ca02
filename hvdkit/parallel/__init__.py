"""One model over several devices and ranks."""

from hvdkit.parallel.layer_split import LayerSplit
from hvdkit.parallel.split_attention import SplitMultiHeadAttention
from hvdkit.parallel.split_dense import SplitDense
from hvdkit.parallel.split_embedding import SplitEmbedding
from hvdkit.parallel.splitting import split

__all__ = ["LayerSplit", "SplitDense", "SplitEmbedding", "SplitMultiHeadAttention", "split"]
