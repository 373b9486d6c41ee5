// The lanes of a reduction block (core/reduce.h) on the CPU.
#pragma once

#include <cstring>

#include "core/reduce.h"
#include "cpu/kernels.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

static_assert(kTile == kLanes, "a tile is one step of a reduction block");

// Zeroes the lanes that a block with `used` of them reads; sum_of_lanes leaves out most of the rest.
template <class A>
void clear_lanes(A* lane, int used) {
  const int touched = (used + kVector) * 2 < kLanes ? (used + kVector) * 2 : kLanes;
  std::memset(lane, 0, sizeof(A) * touched);
}

// The tree of core/reduce.h. Lanes from `used` on are zero, which lets a short block skip the widest levels:
// they would only add zero to each sum.
template <class A>
A sum_of_lanes(const A* lane, int used) {
  int width = 1;
  while (width * kVector < used) width *= 2;
  A thread[kThreads];
  for (int t = 0; t < width; ++t) thread[t] = sum_of_vector(lane + t * kVector);
  for (int apart = width / 2; apart > 0; apart /= 2) {
    for (int t = 0; t < apart; ++t) thread[t] += thread[t + apart];
  }
  return thread[0];
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
