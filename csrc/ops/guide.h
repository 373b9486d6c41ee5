// guide: classifier-free guidance, v = uncond + scale (cond - uncond).
#pragma once

#include "core/portable.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// The difference form, not (1 - s) u + s c: it is exact where the fields agree and loses nothing at large
// scales.
template <class A>
DANCEOPD_HD A guided(A uncond, A cond, A scale) {
  return fused(scale, cond - uncond, uncond);
}

struct Guide {
  static constexpr int inputs = 2;  // uncond, cond
  static constexpr int params = 1;  // scale
  static constexpr int coefs = 1;

  DANCEOPD_HD static void coefficients(const double* p, double* c) { c[0] = p[0]; }

  template <class A>
  DANCEOPD_HD static A apply(const A* x, const A* c) {
    return guided(x[0], x[1], c[0]);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
