// Forced in before every file of Horovod (CXXFLAGS=-include). Over Gloo, Horovod fills
// Controller::global_ranks_ behind the vector's back: it reserves, and writes past size().
// The stall inspector then looks for missing ranks among none. Here it gets the ranks that are
// there, whichever controller it is.
#pragma once
#define CheckForStalledTensors(ranks) CheckForStalledTensors(HVDKIT_RANKS_##ranks)
#define HVDKIT_RANKS_const const
#define HVDKIT_RANKS_global_ranks_                                                             \
  (std::vector<int>(global_ranks_.data(), global_ranks_.data() + size_))
