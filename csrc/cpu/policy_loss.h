// policy_loss: loss partials and gradient, tile by tile.
#pragma once

#include "cpu/lanes.h"
#include "cpu/tile.h"
#include "ops/policy_loss.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// `gradient` may be the output itself.
template <class A>
void policy_tile(const PolicyLoss<A>& op, const A* log_prob, const A* old, const A* advantage, int n, A* lane,
                 A* gradient) {
#pragma GCC ivdep
  for (int i = 0; i < n; ++i) gradient[i] = op.apply(log_prob[i], old[i], advantage[i], lane[i]);
}

template <class A>
void policy_blocks(const PolicyLossArgs& a, int64_t begin, int64_t end) {
  alignas(64) A p_buffer[kTile], o_buffer[kTile], a_buffer[kTile], g_buffer[kTile], lane[kLanes];
  const PolicyLoss<A> op(a);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock, left = a.elements - first;
    const int used = static_cast<int>(left < kLanes ? left : kLanes);
    clear_lanes(lane, used);
    for (int64_t i = first; i < first + kBlock && i < a.elements; i += kTile) {
      const int n = static_cast<int>(a.elements - i < kTile ? a.elements - i : kTile);
      const A* p = load_tile(a.log_prob, i, n, p_buffer);
      const A* o = load_tile(a.old_log_prob, i, n, o_buffer);
      const A* v = load_tile(a.advantage, i, n, a_buffer);
      A* g = a.gradient ? output_tile(a.gradient, a.gradient_dtype, i, g_buffer) : g_buffer;
      policy_tile(op, p, o, v, n, lane, g);
      if (a.gradient) store_tile(a.gradient, a.gradient_dtype, i, n, g_buffer);
    }
    static_cast<A*>(a.partials)[block] = sum_of_lanes(lane, used);
  }
}

inline void policy_loss(const PolicyLossArgs& a, int64_t begin, int64_t end) {
  a.log_prob.dtype == DType::f64 ? policy_blocks<double>(a, begin, end) : policy_blocks<float>(a, begin, end);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
