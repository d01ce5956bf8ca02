"""Rank 0 leaves at once, and the others, which do not need it, go on: `leaving.py HOW`."""

import sys
import time

import numpy as np

import hvdkit as hvd

SECONDS = 4  # in which Horovod would end on all ranks


def main() -> None:
    others = hvd.ProcessSet([1, 2])
    hvd.init(process_sets=[others])
    if hvd.rank() == 0:
        if sys.argv[1] == "shutdown":
            hvd.shutdown()
        return
    time.sleep(SECONDS)
    total = hvd.allreduce(np.float32(hvd.rank()), op=hvd.Sum, process_set=others)
    assert float(total) == 3.0
    assert others.size() == 2
    print("LEFT LATER", flush=True)


if __name__ == "__main__":
    main()
