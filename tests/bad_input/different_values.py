"""An allreduce of values whose shapes differ between ranks."""

import numpy as np

import hvdkit as hvd

hvd.init()
hvd.allreduce(np.ones(3 if hvd.rank() == 1 else 2))
