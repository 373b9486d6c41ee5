// add_noise: the interpolant x_sigma = (1 - sigma) clean + sigma noise.
#pragma once

#include "core/portable.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

struct AddNoise {
  static constexpr int inputs = 2;  // clean, noise
  static constexpr int params = 1;  // sigma
  static constexpr int coefs = 2;

  DANCEOPD_HD static void coefficients(const double* p, double* c) {
    c[0] = 1.0 - p[0];
    c[1] = p[0];
  }

  template <class A>
  DANCEOPD_HD static A apply(const A* x, const A* c) {
    return fused(c[1], x[1], c[0] * x[0]);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
