// What host compilers and nvcc have to agree on.
//
// Every unit (baseline, avx2, avx512, host, cuda) compiles these headers with its own flags. DANCEOPD_UNIT
// puts each copy in a namespace of its own; without it the linker would keep one copy of an inline function,
// and an AVX-512 body could end up running on a machine that has no AVX-512.
#pragma once

#include <cstdint>

#ifndef DANCEOPD_UNIT
#define DANCEOPD_UNIT host
#endif

#if defined(__CUDACC__)
#define DANCEOPD_HD __host__ __device__ __forceinline__
#else
#define DANCEOPD_HD inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define DANCEOPD_UNROLL _Pragma("unroll")
#else
#define DANCEOPD_UNROLL
#endif

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// a * b + c, rounded once. The only way a kernel fuses: contraction is off everywhere.
DANCEOPD_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

DANCEOPD_HD double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// Correctly rounded on every device, which makes it the same everywhere.
DANCEOPD_HD float root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}

DANCEOPD_HD double root(double a) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(a);
#else
  return __builtin_sqrt(a);
#endif
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
