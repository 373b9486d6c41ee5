// combine: elementwise ops. One thread block per kBlock elements of one sample.
#pragma once

#include "cuda/vector.h"
#include "ops/add_noise.h"
#include "ops/blend.h"
#include "ops/euler_step.h"
#include "ops/guide.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

template <class Op>
static __global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineArgs a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  const int64_t b = blockIdx.x / blocks, first = (blockIdx.x % blocks) * kBlock;

  float c[Op::coefs > 0 ? Op::coefs : 1];
  if constexpr (Op::inputs != 0) {
    double params[Op::params], coefs[Op::coefs];
    DANCEOPD_UNROLL
    for (int k = 0; k < Op::params; ++k) params[k] = value_of(a.param[k], b);
    Op::coefficients(params, coefs);
    DANCEOPD_UNROLL
    for (int k = 0; k < Op::coefs; ++k) c[k] = static_cast<float>(coefs[k]);
  }

#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + step * kLanes + threadIdx.x * kVector;
    const int64_t left = a.per_sample - i;
    if (left <= 0) return;
    const int n = left < kVector ? static_cast<int>(left) : kVector;
    const int64_t offset = b * a.per_sample + i;
    float out[kVector] = {};
    if constexpr (Op::inputs == 0) {
      for (int k = 0; k < a.inputs; ++k) {
        const float weight = static_cast<float>(value_of(a.param[k], b));
        float x[kVector] = {};
        load_vector(a.input[k], offset, n, x);
        DANCEOPD_UNROLL
        for (int j = 0; j < kVector; ++j) out[j] = Op::fold(out[j], x[j], weight);
      }
    } else {
      float x[Op::inputs][kVector] = {};
      DANCEOPD_UNROLL
      for (int k = 0; k < Op::inputs; ++k) load_vector(a.input[k], offset, n, x[k]);
      DANCEOPD_UNROLL
      for (int j = 0; j < kVector; ++j) {
        float in[Op::inputs];
        DANCEOPD_UNROLL
        for (int k = 0; k < Op::inputs; ++k) in[k] = x[k][j];
        out[j] = Op::apply(in, c);
      }
    }
    store_vector(a.output, a.output_dtype, offset, n, out);
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
