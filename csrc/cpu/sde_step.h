// sde_step: mean, sample and the partials of its log-probability, tile by tile.
#pragma once

#include <type_traits>

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

// A tile whose operands are all bfloat16, as of models mostly, in one loop: conversions in registers. The
// same sums in the same order as by way of float32 tiles.
template <class Z>
void drawn_bf16(const SDEStep<float>& op, const uint16_t* s, const uint16_t* v, const Z* z, int n,
                uint16_t* mean, uint16_t* next, float* lane) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    const float m = op.mean(widened(s[j]), widened(v[j]));
    const uint16_t stored = float_to_bf16(op.next(m, widened(z[j])));
    mean[j] = float_to_bf16(m);
    next[j] = stored;
    SDEStep<float>::add(widened(stored), m, lane[j]);
  }
}

inline void given_bf16(const SDEStep<float>& op, const uint16_t* s, const uint16_t* v, const uint16_t* next,
                       int n, uint16_t* mean, float* lane) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    const float m = op.mean(widened(s[j]), widened(v[j]));
    mean[j] = float_to_bf16(m);
    SDEStep<float>::add(widened(next[j]), m, lane[j]);
  }
}

inline bool is_all_bf16(const SDEArgs& a) {
  const bool next = a.next_sample.data == nullptr || a.next_sample.dtype == DType::bf16;
  const bool noise = a.noise.data == nullptr || a.noise.dtype == DType::bf16;
  return a.sample.dtype == DType::bf16 && a.velocity.dtype == DType::bf16 && next && noise;
}

// Elements [i, i + n) of sample b.
inline void sde_tile_bf16(const SDEArgs& a, const SDEStep<float>& op, int64_t b, int64_t i, int n,
                          float* z_buffer, float* lane) {
  const int64_t offset = b * a.per_sample + i;
  const auto at = [offset](const void* data) { return static_cast<const uint16_t*>(data) + offset; };
  const uint16_t *s = at(a.sample.data), *v = at(a.velocity.data);
  uint16_t* mean = static_cast<uint16_t*>(a.mean) + offset;
  if (a.next_sample.data != nullptr) return given_bf16(op, s, v, at(a.next_sample.data), n, mean, lane);
  uint16_t* next = static_cast<uint16_t*>(a.next) + offset;
  if (a.noise.data != nullptr) return drawn_bf16(op, s, v, at(a.noise.data), n, mean, next, lane);
  const float* z = noise_tile(seed_of(a.seed, b), first_element(a.seed, b, a.per_sample) + i, n, z_buffer);
  drawn_bf16(op, s, v, z, n, mean, next, lane);
}

template <class A>
void sde_blocks(const SDEArgs& a, int64_t begin, int64_t end) {
  alignas(64) A s_buffer[kTile], v_buffer[kTile], z_buffer[kNoiseTile], mean_buffer[kTile],
      next_buffer[kTile], lane[kLanes];
  const bool given = a.next_sample.data != nullptr, noisy = a.noise.data != nullptr;
  [[maybe_unused]] const bool narrow = is_all_bf16(a);
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
      if constexpr (std::is_same<A, float>::value) {
        if (narrow) {
          sde_tile_bf16(a, op, b, i, n, z_buffer, lane);
          continue;
        }
      }
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
