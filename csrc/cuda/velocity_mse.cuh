// velocity_mse: loss partials and gradient in one pass, then one thread block per sample for the final pass,
// and one for the mean over samples.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/vector.h"
#include "ops/velocity_mse.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

__device__ __forceinline__ void load_mask(const Mask& m, int64_t b, int64_t i, int n, float* x) {
  int64_t repeat = i % m.inner, position = (i / m.inner) % m.period;
  DANCEOPD_UNROLL
  for (int j = 0; j < kVector; ++j) {
    if (j >= n) return;
    x[j] = load_scalar<float>(m.input.data, m.input.dtype, b * m.batch_stride + position);
    if (++repeat == m.inner) {
      repeat = 0;
      if (++position == m.period) position = 0;
    }
  }
}

static __global__ void __launch_bounds__(kThreads)
    velocity_mse_kernel(const __grid_constant__ VelocityMSEArgs a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  const int64_t b = blockIdx.x / blocks, first = (blockIdx.x % blocks) * kBlock;
  const bool guided = a.uncond.data != nullptr, masked = a.mask.input.data != nullptr;
  const double elements = static_cast<double>(a.batch) * static_cast<double>(a.per_sample);
  const VelocityMSE<float> op = {static_cast<float>(value_of(a.scale, b)),
                                 static_cast<float>(2.0 * weight_of(a, b) * a.gradient_scale / elements)};

  float lane[kVector] = {};
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + step * kLanes + threadIdx.x * kVector;
    const int64_t left = a.per_sample - i;
    if (left <= 0) break;
    const int n = left < kVector ? static_cast<int>(left) : kVector;
    const int64_t offset = b * a.per_sample + i;
    float s[kVector] = {}, t[kVector] = {}, u[kVector] = {}, m[kVector], g[kVector];
    load_vector(a.student, offset, n, s);
    load_vector(a.teacher, offset, n, t);
    if (guided) load_vector(a.uncond, offset, n, u);
    DANCEOPD_UNROLL
    for (int j = 0; j < kVector; ++j) m[j] = 1.0f;
    if (masked) load_mask(a.mask, b, i, n, m);
    DANCEOPD_UNROLL
    for (int j = 0; j < kVector; ++j) {  // beyond n all inputs are zero, and so is what they add
      g[j] = op.apply(s[j], op.target(t[j], u[j], guided), m[j], lane[j]);
    }
    if (a.gradient != nullptr) store_vector(a.gradient, a.gradient_dtype, offset, n, g);
  }
  const float sum = sum_of_threads(sum_of_vector(lane));
  if (threadIdx.x == 0) static_cast<float*>(a.partials)[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(kThreads)
    velocity_mse_final_kernel(const __grid_constant__ VelocityMSEArgs a) {
  const int64_t blocks = blocks_per_sample(a.per_sample), b = blockIdx.x;
  const double sum = sum_of_partials(a.partials, b, blocks);
  if (threadIdx.x == 0) {
    const double loss = weight_of(a, b) * sum / static_cast<double>(a.per_sample);
    static_cast<float*>(a.loss)[b] = static_cast<float>(loss);
  }
}

static __global__ void __launch_bounds__(kThreads)
    velocity_mse_mean_kernel(const __grid_constant__ VelocityMSEArgs a) {
  const double sum = sum_of_partials(a.loss, 0, a.batch);
  if (threadIdx.x == 0) {
    *static_cast<float*>(a.mean) = static_cast<float>(sum / static_cast<double>(a.batch));
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
