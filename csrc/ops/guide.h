// Classifier-free guidance, v = uncond + scale (cond - uncond).
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

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
