// combine: elementwise ops, tile by tile.
#pragma once

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

template <class Op, class A>
void combine_tiles(const CombineArgs& a, int64_t begin, int64_t end) {
  alignas(64) A buffer[Op::outputs][kTile];
  const int64_t tiles = tiles_per_sample(a.per_sample);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t b = t / tiles, first = (t % tiles) * kTile;
    const int n = static_cast<int>(a.per_sample - first < kTile ? a.per_sample - first : kTile);
    const int64_t offset = b * a.per_sample + first;
    A* out[Op::outputs];
    for (int k = 0; k < Op::outputs; ++k)
      out[k] = output_tile(a.output[k], a.output_dtype, offset, buffer[k]);
    if constexpr (Op::inputs == 0) {
      fold_tile<Op>(a, b, offset, n, out[0]);
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
