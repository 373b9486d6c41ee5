// Logarithm, exponential, sine and cosine from fma and exact operations alone, since the standard libraries
// of hosts and CUDA differ in the last bit. Free of branches, so that compilers vectorise them.
#pragma once

#include "core/dtype.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// Natural logarithm of a positive, normal number; the polynomial is a minimax fit on [sqrt(1/2), sqrt(2)].
DANCEOPD_HD float logarithm(float x) {
  const int32_t exponent = static_cast<int32_t>(bits_of(x) - 0x3f3504f3u) >> 23;  // of x / sqrt(1/2)
  const float f = float_of(bits_of(x) - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  float p = -0.0806465894f;
  p = fused(p, f, 0.129178703f);
  p = fused(p, f, -0.130725533f);
  p = fused(p, f, 0.14173454f);
  p = fused(p, f, -0.166289195f);
  p = fused(p, f, 0.200026959f);
  p = fused(p, f, -0.25000751f);
  p = fused(p, f, 0.333333135f);
  p = fused(p, f, -0.49999997f);
  return fused(static_cast<float>(exponent), 0.693147181f, fused(f * f, p, f));
}

// The same in double: log(1 + f) = 2 atanh(s) with s = f / (2 + f), whose series ends below 2^-55.
DANCEOPD_HD double logarithm(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  const int64_t exponent = static_cast<int64_t>(bits - 0x3fe6a09e667f3bcdu) >> 52;
  bits -= static_cast<uint64_t>(exponent) << 52;
  double m;
  memcpy(&m, &bits, 8);
  const double f = m - 1.0, s = f / (2.0 + f), z = s * s;
  double p = 1.0 / 23.0;
  for (int k = 10; k > 0; --k) p = fused(p, z, 1.0 / (2 * k + 1));
  const double tail = (2.0 * s) * (z * p);
  return fused(static_cast<double>(exponent), 0.69314718055994531, fused(2.0, s, tail));
}

// 2^n for a normal result.
DANCEOPD_HD float power_of_two(int32_t n) {
  return float_of(static_cast<uint32_t>(n + 127) << 23);
}

// e^x by e^r 2^n with |r| <= log(2) / 2; the polynomial is a minimax fit. Adding 1.5 * 2^23 rounds to the
// nearest integer and leaves it in the low bits, whatever x is. Two factors, as 2^n alone may leave the
// floats on either side.
DANCEOPD_HD float exponential(float x) {
  const float bounded = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;  // 0 and infinity; a NaN stays one
  const float shifted = fused(bounded, 1.44269502f, 12582912.0f);
  const int32_t n = static_cast<int32_t>(bits_of(shifted) - bits_of(12582912.0f)) & 0x3ff;  // of a NaN: any
  const int32_t signed_n = (n ^ 0x200) - 0x200, half = signed_n >> 1;
  const float whole = shifted - 12582912.0f;
  const float r = fused(whole, 1.90465432e-9f, fused(whole, -0.693147182f, bounded));
  float p = 1.9790289e-4f;
  p = fused(p, r, 1.3944705e-3f);
  p = fused(p, r, 8.333498e-3f);
  p = fused(p, r, 4.1666295e-2f);
  p = fused(p, r, 0.16666666f);
  p = fused(p, r, 0.5f);
  const float e = 1.0f + fused(r * r, p, r);
  return (e * power_of_two(half)) * power_of_two(signed_n - half);
}

DANCEOPD_HD double power_of_two(int64_t n) {
  const uint64_t bits = static_cast<uint64_t>(n + 1023) << 52;
  double x;
  memcpy(&x, &bits, 8);
  return x;
}

// The same in double, by the series of e^r.
DANCEOPD_HD double exponential(double x) {
  const double bounded = x < -746.0 ? -746.0 : x > 710.0 ? 710.0 : x;
  const double shifted = fused(bounded, 1.4426950408889634, 6755399441055744.0);  // 1.5 * 2^52
  uint64_t bits;
  memcpy(&bits, &shifted, 8);
  const int64_t n = static_cast<int64_t>((bits & 0xfff) ^ 0x800) - 0x800, half = n >> 1;
  const double whole = shifted - 6755399441055744.0;
  const double r = fused(whole, -2.3190468138462996e-17, fused(whole, -0.69314718055994531, bounded));
  double p = 1.0 / 6227020800.0;  // 1 / 13!
  double factorial = 6227020800.0;
  for (int k = 13; k > 2; --k) {
    factorial /= k;
    p = fused(p, r, 1.0 / factorial);
  }
  const double e = 1.0 + fused(r * r, p, r);
  return (e * power_of_two(half)) * power_of_two(n - half);
}

// Sine and cosine of the angle `turn` / 2^32 of a full turn.
DANCEOPD_HD void sine_cosine(uint32_t turn, float* sine, float* cosine) {
  const uint32_t quadrant = (turn + 0x20000000u) >> 30;
  const float x = static_cast<float>(static_cast<int32_t>(turn - (quadrant << 30))) * 1.46291808e-9f;
  const float z = x * x;  // |x| <= pi / 4
  float p = fused(2.72500006e-6f, z, -0.00019840087f);
  p = fused(p, z, 0.00833333191f);
  p = fused(p, z, -0.166666672f);
  const float s = fused(x * z, p, x);
  p = fused(2.45480405e-5f, z, -0.00138883037f);
  p = fused(p, z, 0.0416666642f);
  const float c = fused(z * z, p, fused(-0.5f, z, 1.0f));
  const bool swapped = (quadrant & 1u) != 0;
  *sine = float_of(bits_of(swapped ? c : s) ^ ((quadrant & 2u) << 30));
  *cosine = float_of(bits_of(swapped ? s : c) ^ (((quadrant + 1u) & 2u) << 30));
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
