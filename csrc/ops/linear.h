// The engine of all steps: a linear combination of the inputs, with coefficients from ops/coefficients.h.
#pragma once

#include "ops/guide.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// sum_k c[k] x[k] over kTerms inputs, in their order. Guided, the velocity (input 1, or the only one) is
// guided first: the unconditional velocity is the last input and the guidance scale the last coefficient.
template <int kTerms, bool kGuided>
struct Linear {
  static constexpr int inputs = kTerms + kGuided;
  static constexpr int coefs = kTerms + kGuided;
  static constexpr int outputs = 1;
  static constexpr int velocity = kTerms > 1 ? 1 : 0;

  template <class A>
  DANCEOPD_HD static A term(const A* x, const A* c, int k) {
    return kGuided && k == velocity ? guided(x[kTerms], x[k], c[kTerms]) : x[k];
  }

  template <class A>
  DANCEOPD_HD static void apply(const A* x, const A* c, A* out) {
    A sum = c[0] * term(x, c, 0);
    DANCEOPD_UNROLL
    for (int k = 1; k < kTerms; ++k) sum = fused(c[k], term(x, c, k), sum);
    out[0] = sum;
  }
};

// The same over a number of inputs known at run time. inputs == 0 marks a fold: the engine calls `fold` once
// per input, in order, with that input's coefficient.
struct Fold {
  static constexpr int inputs = 0;
  static constexpr int outputs = 1;

  template <class A>
  DANCEOPD_HD static A fold(A sum, A x, A weight) {
    return fused(weight, x, sum);
  }
};

// DPM-Solver++(2M): an Euler step with a correction from the last two predictions of the clean sample. The
// latest of them is the second output. A plain combination of sample, velocity and previous prediction would
// do too, but the difference of the predictions is exact where they agree.
template <bool kFirst>
struct DPMpp2M {
  static constexpr int inputs = kFirst ? 2 : 3;  // sample, velocity, previous prediction
  static constexpr int coefs = kFirst ? 2 : 3;   // step, -sigma, correction
  static constexpr int outputs = 2;

  template <class A>
  DANCEOPD_HD static void apply(const A* x, const A* c, A* out) {
    const A euler = fused(c[0], x[1], x[0]);
    out[1] = fused(c[1], x[1], x[0]);
    out[0] = kFirst ? euler : fused(c[kFirst ? 0 : 2], out[1] - x[kFirst ? 0 : 2], euler);
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
