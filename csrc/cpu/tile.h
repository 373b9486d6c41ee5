// Tiles: a stretch of elements in the accumulation type A, converted on the way in and out.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

inline void convert_from_bf16(const uint16_t* in, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = bf16_to_float(in[i]);
}

inline void convert_to_bf16(const float* in, uint16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = float_to_bf16(in[i]);
}

// Compilers do not vectorise the f16 conversions by themselves.
inline void convert_from_f16(const uint16_t* in, float* out, int n) {
  int i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half));
  }
#endif
  for (; i < n; ++i) out[i] = f16_to_float(in[i]);
}

inline void convert_to_f16(const float* in, uint16_t* out, int n) {
  int i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
#endif
  for (; i < n; ++i) out[i] = float_to_f16(in[i]);
}

// Elements [offset, offset + n) of an input, in `buffer` only where a conversion is needed.
inline const float* load_tile(const Input& in, int64_t offset, int n, float* buffer) {
  switch (in.dtype) {
    case DType::f32:
      return static_cast<const float*>(in.data) + offset;
    case DType::bf16:
      convert_from_bf16(static_cast<const uint16_t*>(in.data) + offset, buffer, n);
      break;
    case DType::f16:
      convert_from_f16(static_cast<const uint16_t*>(in.data) + offset, buffer, n);
      break;
    default:
      for (int i = 0; i < n; ++i) buffer[i] = load_scalar<float>(in.data, in.dtype, offset + i);
  }
  return buffer;
}

inline const double* load_tile(const Input& in, int64_t offset, int n, double* buffer) {
  if (in.dtype == DType::f64) return static_cast<const double*>(in.data) + offset;
  for (int i = 0; i < n; ++i) buffer[i] = load_scalar<double>(in.data, in.dtype, offset + i);
  return buffer;
}

// Where a kernel writes elements [offset, offset + n): the output itself, or `buffer` when store_tile must
// convert.
inline float* output_tile(void* out, DType dtype, int64_t offset, float* buffer) {
  return dtype == DType::f32 ? static_cast<float*>(out) + offset : buffer;
}

inline double* output_tile(void* out, DType, int64_t offset, double*) {
  return static_cast<double*>(out) + offset;
}

inline void store_tile(void* out, DType dtype, int64_t offset, int n, const float* buffer) {
  if (dtype == DType::bf16) convert_to_bf16(buffer, static_cast<uint16_t*>(out) + offset, n);
  if (dtype == DType::f16) convert_to_f16(buffer, static_cast<uint16_t*>(out) + offset, n);
}

inline void store_tile(void*, DType, int64_t, int, const double*) {}  // written in place

// Conversions of one float32 or bfloat16 element, for loops that keep them in registers.
inline float widened(float x) {
  return x;
}
inline float widened(uint16_t x) {
  return bf16_to_float(x);
}
inline void narrowed(float x, float& out) {
  out = x;
}
inline void narrowed(float x, uint16_t& out) {
  out = float_to_bf16(x);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
