// The tree and the final pass of core/reduce.h within a thread block.
#pragma once

#include "core/reduce.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// The threads' part of the tree: the sum in thread 0, zero in the others, which must not read what it still
// writes.
template <class A>
__device__ __forceinline__ A sum_of_threads(A mine) {
  __shared__ A thread[kThreads];
  thread[threadIdx.x] = mine;
  for (int apart = kThreads / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (threadIdx.x < apart) thread[threadIdx.x] += thread[threadIdx.x + apart];
  }
  return threadIdx.x == 0 ? thread[0] : A(0);
}

// The final pass: the sum of sample b's partials, in thread 0.
__device__ __forceinline__ double sum_of_partials(const void* partials, int64_t b, int64_t blocks) {
  const float* of_sample = static_cast<const float*>(partials) + b * blocks;
  double lane = 0.0;
  for (int64_t j = threadIdx.x; j < blocks; j += kThreads) lane += static_cast<double>(of_sample[j]);
  return sum_of_threads(lane);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
