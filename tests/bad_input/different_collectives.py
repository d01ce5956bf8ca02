"""Rank 1 calls another collective than the others: each waits for what the other does not call."""

import hvdkit as hvd

hvd.init(stall_timeout=3)
if hvd.rank() == 1:
    hvd.broadcast(1.0, 0)
else:
    hvd.allgather(1.0)
