// The fixed order of every reduction. It depends on the number of elements per sample and on nothing else:
// not on the device, the instruction set or the thread count, so all of them give the same bits.
//
//   block   kBlock consecutive elements of one sample (the last one may be short)
//   lane    element i of a block adds to lane i % kLanes, in rising i
//   tree    lanes pair up: first the kVector lanes of a thread (4, 2, 1 apart), then the threads (64, .. 1)
//   final   block j of a sample adds, in double, to lane j % kThreads; lanes pair up (64, 32, .. 1 apart)
//   mean    over samples: another final pass, over their losses as they were rounded
#pragma once

#include "core/portable.h"

namespace danceopd {

constexpr int kThreads = 128;               // of a CUDA block
constexpr int kVector = 8;                  // elements per thread and step: one or two 16-byte accesses
constexpr int kLanes = kThreads * kVector;  // 1024
constexpr int kSteps = 4;
constexpr int64_t kBlock = kLanes * kSteps;  // 4096

inline namespace DANCEOPD_UNIT {

DANCEOPD_HD int64_t blocks_per_sample(int64_t per_sample) {
  return (per_sample + kBlock - 1) / kBlock;
}

// The eight lanes of one thread; stride 1.
template <class A>
DANCEOPD_HD A sum_of_vector(const A* lane) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
