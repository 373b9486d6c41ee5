// velocity_mse: weight * mask * (student - target)^2 and its gradient, target = guide(uncond, teacher,
// scale).
#pragma once

#include "core/dtype.h"
#include "ops/guide.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// Of sample b.
DANCEOPD_HD double weight_of(const VelocityMSEArgs& a, int64_t b) {
  const double weight = value_of(a.weight, b);
  return a.weight_is_std ? 0.5 / (weight * weight) : weight;
}

template <class A>
struct VelocityMSE {
  A scale;  // of the guidance
  A slope;  // 2 * weight * gradient_scale / (all elements)

  DANCEOPD_HD A target(A teacher, A uncond, bool guidance) const {
    return guidance ? guided(uncond, teacher, scale) : teacher;
  }

  // Adds the element to its lane's sum and returns d(loss) / d(student).
  DANCEOPD_HD A apply(A student, A target, A mask, A& sum) const {
    const A residual = student - target;
    const A masked = mask * residual;
    sum = fused(masked, residual, sum);
    return slope * masked;
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
