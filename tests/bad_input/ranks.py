"""Print who one is; what a launcher that was asked for too much must not start."""

import hvdkit as hvd

hvd.init()
print(f"rank {hvd.rank()} of {hvd.size()} runs", flush=True)
