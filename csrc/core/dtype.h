// Scalar conversions. Round to nearest even; the software forms give the bits of the hardware forms (NaN
// payloads apart), so it does not matter which of them a unit uses.
#pragma once

#include <cstring>

#include "core/arguments.h"
#include "core/portable.h"

#if defined(__F16C__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace danceopd {
inline namespace DANCEOPD_UNIT {

DANCEOPD_HD int64_t bytes_of(DType t) {
  return t == DType::f64 ? 8 : t == DType::f32 ? 4 : t == DType::u8 ? 1 : 2;
}

DANCEOPD_HD uint32_t bits_of(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b;
}

DANCEOPD_HD float float_of(uint32_t b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}

DANCEOPD_HD float bf16_to_float(uint16_t h) {
  return float_of(static_cast<uint32_t>(h) << 16);
}

DANCEOPD_HD uint16_t float_to_bf16(float x) {
  const uint32_t b = bits_of(x);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (b >> 16) | 0x40u;
  return static_cast<uint16_t>((b & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

DANCEOPD_HD float f16_to_float(uint16_t h) {
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
#elif defined(__F16C__) && !defined(__CUDACC__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));  // 112: bias 127 - 15
  return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));             // subnormal: exact
#endif
}

DANCEOPD_HD uint16_t float_to_f16(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#elif defined(__F16C__) && !defined(__CUDACC__)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  const uint32_t b = bits_of(x);
  const uint32_t sign = (b >> 16) & 0x8000u;
  const uint32_t magnitude = b & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65536 and beyond: infinity
  if (magnitude >= 0x38800000u) {                                              // 2^-14: the smallest normal
    const uint32_t shifted = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((shifted + 0xfffu + ((shifted >> 13) & 1u)) >> 13));
  }
  // Subnormal: next to 0.5 a float's last bit is worth 2^-24, so the addition itself rounds to the f16 grid.
  return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
#endif
}

// x as it reads back after it was stored in a float dtype of at most 32 bits.
DANCEOPD_HD float rounded_to(float x, DType dtype) {
  return dtype == DType::bf16  ? bf16_to_float(float_to_bf16(x))
         : dtype == DType::f16 ? f16_to_float(float_to_f16(x))
                               : x;
}

// Element i of an array of any dtype, as the kernel's accumulation type A (float or double).
template <class A>
DANCEOPD_HD A load_scalar(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return static_cast<A>(static_cast<const float*>(data)[i]);
    case DType::bf16:
      return static_cast<A>(bf16_to_float(static_cast<const uint16_t*>(data)[i]));
    case DType::f16:
      return static_cast<A>(f16_to_float(static_cast<const uint16_t*>(data)[i]));
    case DType::f64:
      return static_cast<A>(static_cast<const double*>(data)[i]);
    default:
      return static_cast<A>(static_cast<const uint8_t*>(data)[i]);
  }
}

template <class A>
DANCEOPD_HD void store_scalar(void* data, DType dtype, int64_t i, A x) {
  switch (dtype) {
    case DType::f32:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      break;
    case DType::bf16:
      static_cast<uint16_t*>(data)[i] = float_to_bf16(static_cast<float>(x));
      break;
    case DType::f16:
      static_cast<uint16_t*>(data)[i] = float_to_f16(static_cast<float>(x));
      break;
    default:
      static_cast<double*>(data)[i] = static_cast<double>(x);
  }
}

// The value of a parameter for sample b, in double whatever its dtype.
DANCEOPD_HD double value_of(const Param& p, int64_t b) {
  return p.each == nullptr ? p.value : load_scalar<double>(p.each, p.dtype, b * p.stride);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
