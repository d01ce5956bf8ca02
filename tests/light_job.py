"""A job with mpi4py alone, which ends as trainings do: `light_job.py STATE [STEPS]`.

It starts in a second where TensorFlow takes many. The ranks count steps together; a signal to one
of them makes all end with status 75, and rank 0 write the step to STATE, from which the next start
goes on.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

told = 0


def on_signal(number, frame):
    global told
    told = 1


for wanted in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(wanted, on_signal)

from mpi4py import MPI  # noqa: E402, it starts MPI

STATE, STEPS = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**9
SECONDS = 0.05
SAVED = 75


def main() -> None:
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    step = world.bcast(int(STATE.read_text()) if STATE.exists() and world.rank == 0 else 0)
    cores = sorted(os.sched_getaffinity(0))
    place = f"local rank {here.rank} of {here.size} on {socket.gethostname()}, cores {cores}"
    say(f"rank {world.rank} of {world.size}, {place}, from step {step}")
    while step < STEPS:
        time.sleep(SECONDS)
        step += 1
        if world.allreduce(told, MPI.MAX):
            if world.rank == 0:
                STATE.write_text(str(step))
            leave(world.rank)
    say(f"rank {world.rank} has finished at step {step}")


def leave(rank: int) -> None:
    """End with the status that says that all is saved, one rank after the other."""
    for wanted in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(wanted, signal.SIG_IGN)
    say(f"rank {rank} has saved")
    # As hvd.shutdown() does; then nobody misses a rank that has gone.
    MPI.Finalize()
    time.sleep(0.5 * rank)
    sys.stdout.flush()
    os._exit(SAVED)


def say(text: str) -> None:
    """In one piece, so that lines of several ranks do not mix."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


main()
