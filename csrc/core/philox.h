// Noise as a pure function of (seed, element): Philox 4x32 with 10 rounds (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011), key = seed, counter = element / 4, and Box-Muller. The same bits on
// every device and for every split of the work.
#pragma once

#include "core/elementary.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

DANCEOPD_HD void philox_round(uint32_t* x, uint32_t* key) {
  const uint64_t a = static_cast<uint64_t>(x[0]) * 0xd2511f53u, b = static_cast<uint64_t>(x[2]) * 0xcd9e8d57u;
  x[0] = static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0];
  x[2] = static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1];
  x[1] = static_cast<uint32_t>(b);
  x[3] = static_cast<uint32_t>(a);
  key[0] += 0x9e3779b9u;
  key[1] += 0xbb67ae85u;
}

// Two normals from two words: -log of a number in (0, 1] gives the radius, the other word the angle.
DANCEOPD_HD void box_muller(uint32_t radius_bits, uint32_t turn, float* z) {
  const float in_31_bits =
      static_cast<float>(static_cast<int32_t>(radius_bits >> 1));  // signed: converts fast
  const float radius = root(-2.0f * logarithm(fused(in_31_bits, 0x1p-31f, 0x1p-32f)));
  float sine, cosine;
  sine_cosine(turn, &sine, &cosine);
  z[0] = radius * cosine;
  z[1] = radius * sine;
}

// Elements 4 * counter .. 4 * counter + 3 of the stream of `seed`.
DANCEOPD_HD void four_normals(uint64_t seed, uint64_t counter, float* z) {
  uint32_t x[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  philox_round(x, key);  // written out: a loop here keeps compilers from vectorising the caller's
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  philox_round(x, key);
  box_muller(x[0], x[1], z);
  box_muller(x[2], x[3], z + 2);
}

// The stream of sample b and the place of its first element in it.
DANCEOPD_HD uint64_t seed_of(const Seed& s, int64_t b) {
  return static_cast<uint64_t>(s.each == nullptr ? s.seed : s.each[b]);
}

DANCEOPD_HD int64_t first_element(const Seed& s, int64_t b, int64_t per_sample) {
  return s.each == nullptr ? b * per_sample : 0;
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
