// Logarithm, sine and cosine from fma and exact operations alone, since the standard libraries of hosts and
// CUDA differ in the last bit. Free of branches, so that compilers vectorise them.
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
