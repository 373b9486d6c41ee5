// route: a copy by sample. One thread block per kRouteBytes of one sample.
#pragma once

#include "cuda/vector.h"
#include "ops/route.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

constexpr int64_t kRouteBytes = 16 * kThreads * kSteps;

static __global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ RouteArgs a) {
  const int64_t sample_bytes = a.per_sample * bytes_of(a.dtype);
  const int64_t blocks = (sample_bytes + kRouteBytes - 1) / kRouteBytes;
  const int64_t b = blockIdx.x / blocks, first = (blockIdx.x % blocks) * kRouteBytes;
  const char* in = Route::source(a, b, sample_bytes);
  char* out = static_cast<char*>(a.output) + b * sample_bytes;
  const uint64_t nan = Route::nan_bits(a.dtype);
  const uint4 nans = make_uint4(static_cast<uint32_t>(nan), static_cast<uint32_t>(nan >> 32),
                                static_cast<uint32_t>(nan), static_cast<uint32_t>(nan >> 32));

#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    const int64_t i = first + 16 * (step * kThreads + threadIdx.x);
    if (i >= sample_bytes) return;
    if (i + 16 <= sample_bytes && aligned(out + i) && (in == nullptr || aligned(in + i))) {
      *reinterpret_cast<uint4*>(out + i) =
          in == nullptr ? nans : load_once(reinterpret_cast<const uint4*>(in + i));
    } else {
      for (int64_t j = i; j < i + 16 && j < sample_bytes; ++j) {
        out[j] = in == nullptr ? static_cast<char>(nan >> (8 * (j % 8))) : in[j];
      }
    }
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
