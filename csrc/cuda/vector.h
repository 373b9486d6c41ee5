// Eight consecutive elements per thread: 16-byte accesses where the address allows, element by element
// elsewhere.
#pragma once

#include "core/dtype.h"
#include "core/reduce.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

__device__ __forceinline__ bool aligned(const void* p) {
  return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

__device__ __forceinline__ const char* address(const void* data, DType t, int64_t i) {
  return static_cast<const char*>(data) + i * bytes_of(t);
}

// A step's inputs are read once and done with: they are the first to leave the cache. Outputs are what the
// model reads next, so they are written the ordinary way and stay.
__device__ __forceinline__ uint4 load_once(const uint4* p) {
  return __ldcs(p);
}

// x[0 .. n) from elements i .. i + n of `in`, n <= kVector. The dtype is the same for the whole launch, so
// the branches are uniform and one kernel serves every mixture of dtypes.
__device__ __forceinline__ void load_vector(const Input& in, int64_t i, int n, float* x) {
  const char* p = address(in.data, in.dtype, i);
  if (n == kVector && in.dtype != DType::u8 && aligned(p)) {
    const uint4* v = reinterpret_cast<const uint4*>(p);
    const uint4 a = load_once(v);
    if (in.dtype == DType::f32) {
      const uint4 b = load_once(v + 1);
      const uint32_t word[kVector] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
      DANCEOPD_UNROLL
      for (int j = 0; j < kVector; ++j) x[j] = float_of(word[j]);
    } else {
      const uint32_t word[kVector / 2] = {a.x, a.y, a.z, a.w};
      const bool bf16 = in.dtype == DType::bf16;
      DANCEOPD_UNROLL
      for (int j = 0; j < kVector; ++j) {
        const uint16_t half = static_cast<uint16_t>(word[j / 2] >> (16 * (j % 2)));
        x[j] = bf16 ? bf16_to_float(half) : f16_to_float(half);
      }
    }
    return;
  }
  DANCEOPD_UNROLL
  for (int j = 0; j < kVector; ++j) {
    if (j < n) x[j] = load_scalar<float>(in.data, in.dtype, i + j);
  }
}

__device__ __forceinline__ void store_vector(void* out, DType dtype, int64_t i, int n, const float* x) {
  char* p = const_cast<char*>(address(out, dtype, i));
  if (n == kVector && aligned(p)) {
    uint4* v = reinterpret_cast<uint4*>(p);
    if (dtype == DType::f32) {
      v[0] = make_uint4(bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3]));
      v[1] = make_uint4(bits_of(x[4]), bits_of(x[5]), bits_of(x[6]), bits_of(x[7]));
    } else {
      uint32_t word[kVector / 2];
      DANCEOPD_UNROLL
      for (int j = 0; j < kVector / 2; ++j) {
        const float low = x[2 * j], high = x[2 * j + 1];
        word[j] = dtype == DType::bf16 ? float_to_bf16(low) | static_cast<uint32_t>(float_to_bf16(high)) << 16
                                       : float_to_f16(low) | static_cast<uint32_t>(float_to_f16(high)) << 16;
      }
      v[0] = make_uint4(word[0], word[1], word[2], word[3]);
    }
    return;
  }
  DANCEOPD_UNROLL
  for (int j = 0; j < kVector; ++j) {
    if (j < n) store_scalar(out, dtype, i + j, x[j]);
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
