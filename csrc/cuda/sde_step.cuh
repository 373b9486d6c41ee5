// sde_step: mean, sample and partials of its log-probability in one pass, then one thread block per sample
// for the final pass.
#pragma once

#include "core/philox.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.h"
#include "ops/sde_step.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// Elements element .. element + kVector of the stream of `seed`. They lie in up to three groups of four;
// every index is a constant, which keeps z in registers.
__device__ __forceinline__ void noise_vector(uint64_t seed, int64_t element, float* out) {
  const uint64_t group = static_cast<uint64_t>(element) / 4;
  const int skipped = static_cast<int>(element % 4);
  float z[12] = {};
  four_normals(seed, group, z);
  four_normals(seed, group + 1, z + 4);
  if (skipped != 0) four_normals(seed, group + 2, z + 8);
  DANCEOPD_UNROLL
  for (int j = 0; j < kVector; ++j) {
    out[j] = skipped == 0 ? z[j] : skipped == 1 ? z[j + 1] : skipped == 2 ? z[j + 2] : z[j + 3];
  }
}

static __global__ void __launch_bounds__(kThreads) sde_step_kernel(const __grid_constant__ SDEArgs a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  const int64_t b = blockIdx.x / blocks, first = (blockIdx.x % blocks) * kBlock;
  const bool given = a.next_sample.data != nullptr, noisy = a.noise.data != nullptr;
  __shared__ SDECoefficients shared;
  if (threadIdx.x == 0) {
    shared = sde_coefficients(value_of(a.sigma, b), value_of(a.sigma_next, b), a.noise_level);
  }
  __syncthreads();
  const SDEStep<float> op(shared);

  float lane[kVector] = {};
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + step * kLanes + threadIdx.x * kVector;
    const int64_t left = a.per_sample - i;
    if (left <= 0) break;
    const int n = left < kVector ? static_cast<int>(left) : kVector;
    const int64_t offset = b * a.per_sample + i;
    float s[kVector] = {}, v[kVector] = {}, z[kVector] = {}, mean[kVector], next[kVector] = {};
    load_vector(a.sample, offset, n, s);
    load_vector(a.velocity, offset, n, v);
    if (given) {
      load_vector(a.next_sample, offset, n, next);
    } else if (noisy) {
      load_vector(a.noise, offset, n, z);
    } else {
      noise_vector(seed_of(a.seed, b), first_element(a.seed, b, a.per_sample) + i, z);
    }
    DANCEOPD_UNROLL
    for (int j = 0; j < kVector; ++j) {
      mean[j] = op.mean(s[j], v[j]);
      if (!given) next[j] = rounded_to(op.next(mean[j], z[j]), a.output_dtype);
      if (j < n) SDEStep<float>::add(next[j], mean[j], lane[j]);
    }
    store_vector(a.mean, a.output_dtype, offset, n, mean);
    if (!given) store_vector(a.next, a.output_dtype, offset, n, next);
  }
  const float sum = sum_of_threads(sum_of_vector(lane));
  if (threadIdx.x == 0) static_cast<float*>(a.partials)[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(kThreads) sde_step_final_kernel(const __grid_constant__ SDEArgs a) {
  const int64_t b = blockIdx.x;
  const double sum = sum_of_partials(a.partials, b, blocks_per_sample(a.per_sample));
  if (threadIdx.x == 0) {
    const SDECoefficients c =
        sde_coefficients(value_of(a.sigma, b), value_of(a.sigma_next, b), a.noise_level);
    static_cast<float*>(a.log_prob)[b] = static_cast<float>(sde_log_prob(sum, a.per_sample, c.step_std));
    static_cast<float*>(a.std)[b] = static_cast<float>(c.std);
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
