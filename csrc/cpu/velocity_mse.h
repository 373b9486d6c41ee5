// velocity_mse: loss partials and gradient, tile by tile.
#pragma once

#include <type_traits>

#include "cpu/lanes.h"
#include "cpu/tile.h"
#include "ops/velocity_mse.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

template <class A>
const A* load_mask(const Mask& m, int64_t b, int64_t first, int n, A* buffer) {
  int64_t repeat = first % m.inner, position = (first / m.inner) % m.period;
  for (int i = 0; i < n; ++i) {
    buffer[i] = load_scalar<A>(m.input.data, m.input.dtype, b * m.batch_stride + position);
    if (++repeat == m.inner) {
      repeat = 0;
      if (++position == m.period) position = 0;
    }
  }
  return buffer;
}

// A vectorised body per combination of guidance, mask and gradient; `gradient` may be the output itself.
template <bool kGuided, bool kMasked, bool kGradient, class A>
void mse_tile(const VelocityMSE<A>& op, const A* s, const A* t, const A* u, const A* m, int n, A* lane,
              A* gradient) {
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    const A target = op.target(t[i], kGuided ? u[i] : A(0), kGuided);
    const A slope = op.apply(s[i], target, kMasked ? m[i] : A(1), lane[i]);
    if (kGradient) gradient[i] = slope;
  }
}

template <class A>
using MseTile = void (*)(const VelocityMSE<A>&, const A*, const A*, const A*, const A*, int, A*, A*);

template <class A>
MseTile<A> choose_mse_tile(bool guided, bool masked, bool gradient) {
  static constexpr MseTile<A> bodies[8] = {mse_tile<false, false, false, A>, mse_tile<false, false, true, A>,
                                           mse_tile<false, true, false, A>,  mse_tile<false, true, true, A>,
                                           mse_tile<true, false, false, A>,  mse_tile<true, false, true, A>,
                                           mse_tile<true, true, false, A>,   mse_tile<true, true, true, A>};
  return bodies[4 * guided + 2 * masked + gradient];
}

// A full block of one dtype without guidance or mask, which is what a training loop calls most: conversions
// in registers and each lane's sum too, where tiles carry both through memory. The same sums in the same
// order.
template <bool kGradient, class T>
void mse_full_block(const VelocityMSE<float> op, const T* __restrict s, const T* __restrict t,
                    float* __restrict lane, T* __restrict gradient) {
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) {
    float sum = 0.0f;
#pragma GCC unroll 4
    for (int step = 0; step < kSteps; ++step) {
      const int j = step * kLanes + i;
      const float slope = op.apply(widened(s[j]), widened(t[j]), 1.0f, sum);
      if (kGradient) narrowed(slope, gradient[j]);
    }
    lane[i] = sum;
  }
}

template <class T>
void mse_full_block(const VelocityMSEArgs& a, const VelocityMSE<float>& op, int64_t offset, float* lane) {
  const T* s = static_cast<const T*>(a.student.data) + offset;
  const T* t = static_cast<const T*>(a.teacher.data) + offset;
  if (a.gradient == nullptr) {
    mse_full_block<false, T>(op, s, t, lane, nullptr);
  } else {
    mse_full_block<true, T>(op, s, t, lane, static_cast<T*>(a.gradient) + offset);
  }
}

// Whether mse_full_block takes the blocks that are full.
inline bool is_simple(const VelocityMSEArgs& a) {
  return a.uncond.data == nullptr && a.mask.input.data == nullptr && a.student.dtype == a.teacher.dtype &&
         (a.student.dtype == DType::f32 || a.student.dtype == DType::bf16);
}

template <class A>
void mse_blocks(const VelocityMSEArgs& a, int64_t begin, int64_t end) {
  alignas(64) A s_buffer[kTile], t_buffer[kTile], u_buffer[kTile], m_buffer[kTile], g_buffer[kTile],
      lane[kLanes];
  const bool guided = a.uncond.data != nullptr, masked = a.mask.input.data != nullptr;
  const MseTile<A> body = choose_mse_tile<A>(guided, masked, a.gradient != nullptr);
  [[maybe_unused]] const bool simple = is_simple(a);
  const int64_t blocks = blocks_per_sample(a.per_sample);
  const double elements = static_cast<double>(a.batch) * static_cast<double>(a.per_sample);

  for (int64_t block = begin; block < end; ++block) {
    const int64_t b = block / blocks, first = (block % blocks) * kBlock;
    const double weight = weight_of(a, b);
    const VelocityMSE<A> op = {static_cast<A>(value_of(a.scale, b)),
                               static_cast<A>(2.0 * weight * a.gradient_scale / elements)};
    const int64_t left = a.per_sample - first;
    const int used = static_cast<int>(left < kLanes ? left : kLanes);
    if constexpr (std::is_same<A, float>::value) {
      if (simple && left >= kBlock) {
        const int64_t offset = b * a.per_sample + first;
        a.student.dtype == DType::f32 ? mse_full_block<float>(a, op, offset, lane)
                                      : mse_full_block<uint16_t>(a, op, offset, lane);
        static_cast<A*>(a.partials)[block] = sum_of_lanes(lane, used);
        continue;
      }
    }
    clear_lanes(lane, used);
    for (int64_t i = first; i < first + kBlock && i < a.per_sample; i += kTile) {
      const int n = static_cast<int>(a.per_sample - i < kTile ? a.per_sample - i : kTile);
      const int64_t offset = b * a.per_sample + i;
      const A* s = load_tile(a.student, offset, n, s_buffer);
      const A* t = load_tile(a.teacher, offset, n, t_buffer);
      const A* u = guided ? load_tile(a.uncond, offset, n, u_buffer) : nullptr;
      const A* m = masked ? load_mask(a.mask, b, i, n, m_buffer) : nullptr;
      A* g = a.gradient ? output_tile(a.gradient, a.gradient_dtype, offset, g_buffer) : nullptr;
      body(op, s, t, u, m, n, lane, g);
      if (a.gradient) store_tile(a.gradient, a.gradient_dtype, offset, n, g_buffer);
    }
    static_cast<A*>(a.partials)[block] = sum_of_lanes(lane, used);
  }
}

inline void velocity_mse(const VelocityMSEArgs& a, int64_t begin, int64_t end) {
  a.student.dtype == DType::f64 ? mse_blocks<double>(a, begin, end) : mse_blocks<float>(a, begin, end);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
