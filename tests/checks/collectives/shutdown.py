"""The end of Horovod, and what comes after it."""

from __future__ import annotations

import pytest
from checks.collectives.reference import all_ranks

import hvdkit as hvd


def check_init_after_shutdown() -> None:
    """The last check, since Horovod ends here: over MPI it can't start again, over Gloo it can."""
    over_mpi, before = hvd.mpi_enabled(), (hvd.rank(), hvd.size())
    hvd.barrier()
    hvd.shutdown()
    assert hvd.is_initialized() is False
    for call in (hvd.rank, hvd.size, hvd.barrier, lambda: hvd.allreduce(1.0)):
        with pytest.raises(hvd.NotInitializedError, match=r"call hvd\.init\(\)"):
            call()
    if over_mpi:
        with pytest.raises(hvd.HvdkitError, match="can't be started twice"):
            hvd.init()
        return
    hvd.init()
    assert (hvd.rank(), hvd.size()) == before
    assert hvd.allreduce(hvd.rank() + 1, op=hvd.Sum) == sum(r + 1 for r in all_ranks())
