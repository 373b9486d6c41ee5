// policy_loss: loss partials and gradient in one pass, then one thread block for the final pass.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/vector.h"
#include "ops/policy_loss.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

static __global__ void __launch_bounds__(kThreads)
    policy_loss_kernel(const __grid_constant__ PolicyLossArgs a) {
  const int64_t first = blockIdx.x * kBlock;
  const PolicyLoss<float> op(a);

  float lane[kVector] = {};
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + step * kLanes + threadIdx.x * kVector;
    const int64_t left = a.elements - i;
    if (left <= 0) break;
    const int n = left < kVector ? static_cast<int>(left) : kVector;
    float p[kVector] = {}, o[kVector] = {}, v[kVector] = {}, g[kVector];
    load_vector(a.log_prob, i, n, p);
    load_vector(a.old_log_prob, i, n, o);
    load_vector(a.advantage, i, n, v);
    DANCEOPD_UNROLL
    for (int j = 0; j < kVector; ++j) {  // beyond n the advantage is zero, and so is what it adds
      g[j] = op.apply(p[j], o[j], v[j], lane[j]);
    }
    if (a.gradient != nullptr) store_vector(a.gradient, a.gradient_dtype, i, n, g);
  }
  const float sum = sum_of_threads(sum_of_vector(lane));
  if (threadIdx.x == 0) static_cast<float*>(a.partials)[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(kThreads)
    policy_loss_final_kernel(const __grid_constant__ PolicyLossArgs a) {
  const double sum = sum_of_partials(a.partials, 0, blocks_per_sample(a.elements));
  if (threadIdx.x == 0) {
    *static_cast<float*>(a.loss) = static_cast<float>(sum / static_cast<double>(a.elements));
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
