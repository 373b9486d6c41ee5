// sde_step: mean, sample and the partials of its log-probability, tile by tile.
#pragma once

#include "core/philox.h"
#include "cpu/lanes.h"
#include "cpu/tile.h"
#include "ops/sde_step.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

constexpr int kNoiseTile = kTile + 8;  // whole groups of four around a tile

// Elements [element, element + n) of the stream of `seed`, somewhere in `buffer`.
inline const float* noise_tile(uint64_t seed, int64_t element, int n, float* buffer) {
  const uint64_t first = static_cast<uint64_t>(element) / 4;
  const int groups = static_cast<int>((element % 4 + n + 3) / 4);
#pragma GCC ivdep
  for (int g = 0; g < groups; ++g) {
    float z[4];
    four_normals(seed, first + static_cast<uint64_t>(g), z);
    for (int k = 0; k < 4; ++k) buffer[4 * g + k] = z[k];
  }
  return buffer + element % 4;
}

inline const double* noise_tile(uint64_t seed, int64_t element, int n, double* buffer) {
  alignas(64) float narrow[kNoiseTile];
  const float* z = noise_tile(seed, element, n, narrow);
  for (int i = 0; i < n; ++i) buffer[i] = z[i];
  return buffer;
}

template <class A>
void sde_blocks(const SDEArgs& a, int64_t begin, int64_t end) {
  alignas(64) A s_buffer[kTile], v_buffer[kTile], z_buffer[kNoiseTile], mean_buffer[kTile],
      next_buffer[kTile], lane[kLanes];
  const bool given = a.next_sample.data != nullptr, noisy = a.noise.data != nullptr;
  const Input drawn_sample = {a.next, a.output_dtype};
  const int64_t blocks = blocks_per_sample(a.per_sample);

  for (int64_t block = begin; block < end; ++block) {
    const int64_t b = block / blocks, first = (block % blocks) * kBlock;
    const SDEStep<A> op(sde_coefficients(value_of(a.sigma, b), value_of(a.sigma_next, b), a.noise_level));
    const int64_t left = a.per_sample - first;
    const int used = static_cast<int>(left < kLanes ? left : kLanes);
    clear_lanes(lane, used);
    for (int64_t i = first; i < first + kBlock && i < a.per_sample; i += kTile) {
      const int n = static_cast<int>(a.per_sample - i < kTile ? a.per_sample - i : kTile);
      const int64_t offset = b * a.per_sample + i;
      const A* s = load_tile(a.sample, offset, n, s_buffer);
      const A* v = load_tile(a.velocity, offset, n, v_buffer);
      A* mean = output_tile(a.mean, a.output_dtype, offset, mean_buffer);
#pragma GCC ivdep
      for (int j = 0; j < n; ++j) mean[j] = op.mean(s[j], v[j]);
      store_tile(a.mean, a.output_dtype, offset, n, mean_buffer);

      if (!given) {
        const int64_t element = first_element(a.seed, b, a.per_sample) + i;
        const A* z = noisy ? load_tile(a.noise, offset, n, z_buffer)
                           : noise_tile(seed_of(a.seed, b), element, n, z_buffer);
        A* drawn = output_tile(a.next, a.output_dtype, offset, next_buffer);
#pragma GCC ivdep
        for (int j = 0; j < n; ++j) drawn[j] = op.next(mean[j], z[j]);
        store_tile(a.next, a.output_dtype, offset, n, next_buffer);
      }
      const A* next = load_tile(given ? a.next_sample : drawn_sample, offset, n, next_buffer);
#pragma GCC ivdep
      for (int j = 0; j < n; ++j) SDEStep<A>::add(next[j], mean[j], lane[j]);
    }
    static_cast<A*>(a.partials)[block] = sum_of_lanes(lane, used);
  }
}

inline void sde_step(const SDEArgs& a, int64_t begin, int64_t end) {
  a.output_dtype == DType::f64 ? sde_blocks<double>(a, begin, end) : sde_blocks<float>(a, begin, end);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
