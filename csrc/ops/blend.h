// blend: sum_k w_k v_k over any number of fields, folded one field at a time.
#pragma once

#include "core/portable.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// inputs == 0 marks a fold: the engine calls `fold` once per input, in order, with that input's own
// parameter.
struct Blend {
  static constexpr int inputs = 0;
  static constexpr int coefs = 0;

  template <class A>
  DANCEOPD_HD static A fold(A sum, A x, A weight) {
    return fused(weight, x, sum);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
