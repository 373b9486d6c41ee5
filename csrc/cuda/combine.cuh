// combine: elementwise ops. One thread block per kBlock elements of one sample.
#pragma once

#include "cuda/vector.h"
#include "ops/coefficients.h"
#include "ops/linear.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// The sample's coefficients, computed by as few threads as can: doubles are slow here.
template <class Op>
__device__ __forceinline__ void share_coefficients(const CombineArgs& a, int64_t b, float* c) {
  if constexpr (Op::inputs == 0) {
    if (threadIdx.x < a.params) c[threadIdx.x] = static_cast<float>(value_of(a.param[threadIdx.x], b));
  } else {
    if (threadIdx.x == 0) coefficients_of(a, b, Op::coefs, c);
  }
  __syncthreads();
}

template <class Op>
static __global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineArgs a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  const int64_t b = blockIdx.x / blocks, first = (blockIdx.x % blocks) * kBlock;
  __shared__ float c[kMaxInputs];
  share_coefficients<Op>(a, b, c);

#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + step * kLanes + threadIdx.x * kVector;
    const int64_t left = a.per_sample - i;
    if (left <= 0) return;
    const int n = left < kVector ? static_cast<int>(left) : kVector;
    const int64_t offset = b * a.per_sample + i;
    float out[Op::outputs][kVector] = {};
    if constexpr (Op::inputs == 0) {
      for (int k = 0; k < a.inputs; ++k) {
        float x[kVector] = {};
        load_vector(a.input[k], offset, n, x);
        DANCEOPD_UNROLL
        for (int j = 0; j < kVector; ++j) out[0][j] = Op::fold(out[0][j], x[j], c[k]);
      }
    } else {
      float x[Op::inputs][kVector] = {};
      DANCEOPD_UNROLL
      for (int k = 0; k < Op::inputs; ++k) load_vector(a.input[k], offset, n, x[k]);
      DANCEOPD_UNROLL
      for (int j = 0; j < kVector; ++j) {
        float in[Op::inputs], y[Op::outputs];
        DANCEOPD_UNROLL
        for (int k = 0; k < Op::inputs; ++k) in[k] = x[k][j];
        Op::apply(in, c, y);
        DANCEOPD_UNROLL
        for (int k = 0; k < Op::outputs; ++k) out[k][j] = y[k];
      }
    }
    DANCEOPD_UNROLL
    for (int k = 0; k < Op::outputs; ++k) store_vector(a.output[k], a.output_dtype, offset, n, out[k]);
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
