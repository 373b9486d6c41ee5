// policy_loss: the clipped objective of Flow-OPD (arXiv 2605.08043), max(-A r, -A clamp(r, 1 - c, 1 + c))
// with r = exp(log_prob - old_log_prob) and A = clamp(advantage, -bound, bound), and its gradient.
#pragma once

#include "core/elementary.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

template <class A>
struct PolicyLoss {
  A low, high;  // 1 - c and 1 + c
  A bound;
  A slope;  // gradient_scale / elements

  DANCEOPD_HD PolicyLoss(const PolicyLossArgs& a)
      : low(static_cast<A>(1.0 - a.clip_range)),
        high(static_cast<A>(1.0 + a.clip_range)),
        bound(static_cast<A>(a.advantage_clip)),
        slope(static_cast<A>(value_of(a.gradient_scale, 0) / static_cast<double>(a.elements))) {}

  // A NaN stays one: both comparisons are false.
  DANCEOPD_HD static A clamped(A x, A least, A most) { return x < least ? least : x > most ? most : x; }

  // Adds the element to its lane's sum and returns d(loss) / d(log_prob): that of the free product, or zero
  // where the clipped one is larger.
  DANCEOPD_HD A apply(A log_prob, A old_log_prob, A advantage, A& sum) const {
    const A ratio = exponential(log_prob - old_log_prob);
    const A cost = -clamped(advantage, -bound, bound);
    const A free = cost * ratio, clipped = cost * clamped(ratio, low, high);
    const bool cut = clipped > free;
    sum += cut ? clipped : free;
    return slope * (cut ? A(0) : free);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
