// euler_step: x' = x + (sigma_next - sigma) v, with v guided on the fly when an unconditional velocity is
// given.
#pragma once

#include "ops/guide.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

struct EulerStep {
  static constexpr int inputs = 2;  // sample, velocity
  static constexpr int params = 2;  // sigma, sigma_next
  static constexpr int coefs = 1;

  DANCEOPD_HD static void coefficients(const double* p, double* c) { c[0] = p[1] - p[0]; }

  template <class A>
  DANCEOPD_HD static A apply(const A* x, const A* c) {
    return fused(c[0], x[1], x[0]);
  }
};

struct GuidedEulerStep {
  static constexpr int inputs = 3;  // sample, velocity, uncond
  static constexpr int params = 3;  // sigma, sigma_next, guidance scale
  static constexpr int coefs = 2;

  DANCEOPD_HD static void coefficients(const double* p, double* c) {
    c[0] = p[1] - p[0];
    c[1] = p[2];
  }

  template <class A>
  DANCEOPD_HD static A apply(const A* x, const A* c) {
    return fused(c[0], guided(x[2], x[1], c[1]), x[0]);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
