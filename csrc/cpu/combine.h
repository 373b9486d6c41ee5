// combine: elementwise ops, tile by tile.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/tile.h"
#include "ops/coefficients.h"
#include "ops/linear.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

template <class Op, class A>
void apply_tile(const CombineArgs& a, int64_t b, int64_t offset, int n, A* const* y) {
  alignas(64) A buffer[Op::inputs][kTile];
  const A* x[Op::inputs];
  for (int k = 0; k < Op::inputs; ++k) x[k] = load_tile(a.input[k], offset, n, buffer[k]);
  A c[Op::coefs];
  coefficients_of(a, b, Op::coefs, c);

#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    A in[Op::inputs], out[Op::outputs];
    for (int k = 0; k < Op::inputs; ++k) in[k] = x[k][i];
    Op::apply(in, c, out);
    for (int k = 0; k < Op::outputs; ++k) y[k][i] = out[k];
  }
}

// Whether all operands are of this dtype. Where they are bfloat16, as models mostly are, loops of their own
// convert in registers; tiles would go through memory twice more.
inline bool all_are(DType dtype, const CombineArgs& a) {
  bool all = a.output_dtype == dtype;
  for (int k = 0; k < a.inputs; ++k) all = all && a.input[k].dtype == dtype;
  return all;
}

template <class Op>
void apply_bf16(const CombineArgs& a, int64_t b, int64_t offset, int n) {
  const uint16_t* x[Op::inputs];
  uint16_t* y[Op::outputs];
  for (int k = 0; k < Op::inputs; ++k) x[k] = static_cast<const uint16_t*>(a.input[k].data) + offset;
  for (int k = 0; k < Op::outputs; ++k) y[k] = static_cast<uint16_t*>(a.output[k]) + offset;
  float c[Op::coefs];
  coefficients_of(a, b, Op::coefs, c);

#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    float in[Op::inputs], out[Op::outputs];
    for (int k = 0; k < Op::inputs; ++k) in[k] = widened(x[k][i]);
    Op::apply(in, c, out);
    for (int k = 0; k < Op::outputs; ++k) narrowed(out[k], y[k][i]);
  }
}

// `out` is no field's memory: every field is read after the first sums were written.
template <class Op, class A>
void fold_tile(const CombineArgs& a, int64_t b, int64_t offset, int n, A* out) {
  alignas(64) A buffer[kTile];
  for (int i = 0; i < n; ++i) out[i] = A(0);
  for (int k = 0; k < a.inputs; ++k) {
    const A* x = load_tile(a.input[k], offset, n, buffer);
    const A weight = static_cast<A>(value_of(a.param[k], b));
#pragma GCC ivdep
    for (int i = 0; i < n; ++i) out[i] = Op::fold(out[i], x[i], weight);
  }
}

// A few fields: their sum stays in registers, too.
constexpr int kFewFields = 4;

template <class Op, int kFields, class T>
void fold_fields(const CombineArgs& a, int64_t b, int64_t offset, int n) {
  const T* x[kFields];
  float weight[kFields];
  T* y = static_cast<T*>(a.output[0]) + offset;
  for (int k = 0; k < kFields; ++k) {
    x[k] = static_cast<const T*>(a.input[k].data) + offset;
    weight[k] = static_cast<float>(value_of(a.param[k], b));
  }
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) {
    float sum = 0.0f;
    for (int k = 0; k < kFields; ++k) sum = Op::fold(sum, widened(x[k][i]), weight[k]);
    narrowed(sum, y[i]);
  }
}

template <class Op, class T>
void fold_few(const CombineArgs& a, int64_t b, int64_t offset, int n) {
  static_assert(kFewFields == 4, "one case each");
  switch (a.inputs) {
    case 1:
      return fold_fields<Op, 1, T>(a, b, offset, n);
    case 2:
      return fold_fields<Op, 2, T>(a, b, offset, n);
    case 3:
      return fold_fields<Op, 3, T>(a, b, offset, n);
    default:
      return fold_fields<Op, 4, T>(a, b, offset, n);
  }
}

template <class Op, class A>
void combine_tiles(const CombineArgs& a, int64_t begin, int64_t end) {
  alignas(64) A buffer[Op::outputs][kTile];
  const int64_t tiles = tiles_per_sample(a.per_sample);
  [[maybe_unused]] const bool wide = all_are(DType::f32, a), narrow = all_are(DType::bf16, a);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t b = t / tiles, first = (t % tiles) * kTile;
    const int n = static_cast<int>(a.per_sample - first < kTile ? a.per_sample - first : kTile);
    const int64_t offset = b * a.per_sample + first;
    if constexpr (std::is_same<A, float>::value) {
      if constexpr (Op::inputs != 0) {
        if (narrow) {
          apply_bf16<Op>(a, b, offset, n);
          continue;
        }
      } else if (a.inputs <= kFewFields && (wide || narrow)) {
        wide ? fold_few<Op, float>(a, b, offset, n) : fold_few<Op, uint16_t>(a, b, offset, n);
        continue;
      }
    }
    A* out[Op::outputs];
    for (int k = 0; k < Op::outputs; ++k)
      out[k] = output_tile(a.output[k], a.output_dtype, offset, buffer[k]);
    if constexpr (Op::inputs == 0) {
      fold_tile<Op>(a, b, offset, n, buffer[0]);
      if (out[0] != buffer[0]) std::memcpy(out[0], buffer[0], static_cast<size_t>(n) * sizeof(A));
    } else {
      apply_tile<Op>(a, b, offset, n, out);
    }
    for (int k = 0; k < Op::outputs; ++k) store_tile(a.output[k], a.output_dtype, offset, n, buffer[k]);
  }
}

template <class Op>
void combine_as(const CombineArgs& a, int64_t begin, int64_t end) {
  a.output_dtype == DType::f64 ? combine_tiles<Op, double>(a, begin, end)
                               : combine_tiles<Op, float>(a, begin, end);
}

inline void combine(const CombineArgs& a, int64_t begin, int64_t end) {
  switch (a.op) {
    case CombineOp::guide:
      return combine_as<Linear<1, true>>(a, begin, end);
    case CombineOp::euler_step:
    case CombineOp::add_noise:
      return combine_as<Linear<2, false>>(a, begin, end);
    case CombineOp::guided_euler_step:
      return combine_as<Linear<2, true>>(a, begin, end);
    case CombineOp::heun_step:
    case CombineOp::ab2_step:
      return combine_as<Linear<3, false>>(a, begin, end);
    case CombineOp::guided_ab2_step:
      return combine_as<Linear<3, true>>(a, begin, end);
    case CombineOp::first_dpmpp_2m_step:
      return combine_as<DPMpp2M<true>>(a, begin, end);
    case CombineOp::dpmpp_2m_step:
      return combine_as<DPMpp2M<false>>(a, begin, end);
    case CombineOp::blend:
      return combine_as<Fold>(a, begin, end);
  }
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
