// Forced in before every file of Horovod (CXXFLAGS=-include): mends four of its mistakes.
#pragma once

#include <chrono>
#include <thread>

// Over Gloo, Horovod fills Controller::global_ranks_ behind the vector's back: it reserves, and
// writes past size(). The stall inspector then looks for missing ranks among none. Here it gets
// the ranks that are there, whichever controller it is.
#define CheckForStalledTensors(ranks) CheckForStalledTensors(HVDKIT_RANKS_##ranks)
#define HVDKIT_RANKS_const const
#define HVDKIT_RANKS_global_ranks_                                                             \
  (std::vector<int>(global_ranks_.data(), global_ranks_.data() + size_))

// Horovod ends by saying so, and then gives an error to each tensor in its queue. A thread that
// looked just before, and puts its tensor in just after, waits for ever. Here it gets the time
// to come into the queue.
#define FinalizeTensorQueue(status) FinalizeTensorQueue(HVDKIT_STATUS_##status)
#define HVDKIT_STATUS_const const
#define HVDKIT_STATUS_status                                                                   \
  (std::this_thread::sleep_for(std::chrono::milliseconds(100)), status)

// Over Gloo, a rank that leaves does not close the connections of its process sets: their
// contexts are never enabled, and so never finalized. Ranks that wait for data from a rank that
// has left, since a third one died, then wait until Gloo's time is over.
#define InitializeForProcessSet(context, ranks)                                                \
  InitializeForProcessSet(HVDKIT_CONTEXT_##context, ranks)
#define HVDKIT_CONTEXT_const const
#define HVDKIT_CONTEXT_global_gloo_context (gloo_context.Enable(), global_gloo_context)
#define HVDKIT_CONTEXT_global_mpi_context global_mpi_context

// Where process sets may come and go (HOROVOD_DYNAMIC_PROCESS_SETS), Horovod asks all ranks in each
// cycle whether one did, and holds a lock meanwhile that every operation of a script needs. A
// cycle follows the other at once, so where cores are scarce an operation can wait for that lock
// for seconds. Here it asks in one cycle of 32: all ranks go through the cycles together, and the
// count begins anew with the thread that does.
#define Allgather2Ints(pair, ...) HVDKIT_GATHER_##pair, __VA_ARGS__)
#define HVDKIT_GATHER_std Allgather2Ints(std
#define HVDKIT_GATHER_pair_to_transmit                                                         \
  GetSize();                                                                                   \
  static thread_local unsigned hvdkit_cycles = 0;                                              \
  if (removal_status.type() == ABORTED && hvdkit_cycles++ % 32 != 0) { /* not at the end */    \
    return 0;                                                                                  \
  }                                                                                            \
  global_controller.Allgather2Ints(pair_to_transmit
