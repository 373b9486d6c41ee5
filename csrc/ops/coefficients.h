// What each op multiplies its inputs with, from its parameters, in double: on the host when it knows them, on
// the device when they live there. dx/dsigma = v; sigma falls from 1 (noise) to 0 (clean).
#pragma once

#include "core/elementary.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

// x + d v + d^2 / (2 d_previous) (v - v_previous): the line through the last two velocities, integrated. A
// sample that does not move needs no slope, and may have none.
DANCEOPD_HD void ab2_coefficients(double sigma_previous, double sigma, double sigma_next, double* c) {
  const double d = sigma_next - sigma;
  const double slope = d == 0.0 ? 0.0 : d / (2.0 * (sigma - sigma_previous));
  c[0] = 1.0;
  c[1] = d * (1.0 + slope);
  c[2] = -d * slope;
}

// The correction of the second order, (1 - sigma_next / sigma) h / (2 h_previous), where h are the steps in
// lambda = log((1 - sigma) / sigma). It vanishes in the limit of a step that began at pure noise, and is
// dropped on the step to clean, where h is infinite: sigma_next below 1e-30 counts as clean, as the quotients
// below leave the doubles close to zero.
DANCEOPD_HD double dpmpp_2m_correction(double sigma_previous, double sigma, double sigma_next) {
  if (sigma_previous == 1.0 || sigma_next < 1e-30 || sigma_next == sigma) return 0.0;
  const double h = logarithm(((1.0 - sigma_next) * sigma) / ((1.0 - sigma) * sigma_next));
  const double h_previous = logarithm(((1.0 - sigma) * sigma_previous) / ((1.0 - sigma_previous) * sigma));
  return (1.0 - sigma_next / sigma) * (h / (2.0 * h_previous));
}

// c of CombineOp `op` from its parameters p. blend is not here: its weights are its coefficients.
DANCEOPD_HD void coefficients(CombineOp op, const double* p, double* c) {
  switch (op) {
    case CombineOp::guide:  // scale
      c[0] = 1.0;
      c[1] = p[0];
      break;
    case CombineOp::guided_euler_step:  // sigma, sigma_next, scale
      c[2] = p[2];
      [[fallthrough]];
    case CombineOp::euler_step:  // sigma, sigma_next
      c[0] = 1.0;
      c[1] = p[1] - p[0];
      break;
    case CombineOp::heun_step:  // sigma, sigma_next
      c[0] = 1.0;
      c[1] = c[2] = 0.5 * (p[1] - p[0]);
      break;
    case CombineOp::guided_ab2_step:  // sigma_previous, sigma, sigma_next, scale
      c[3] = p[3];
      [[fallthrough]];
    case CombineOp::ab2_step:  // sigma_previous, sigma, sigma_next
      ab2_coefficients(p[0], p[1], p[2], c);
      break;
    case CombineOp::first_dpmpp_2m_step:  // sigma, sigma_next
      c[0] = p[1] - p[0];
      c[1] = -p[0];
      break;
    case CombineOp::dpmpp_2m_step:  // sigma_previous, sigma, sigma_next
      c[0] = p[2] - p[1];
      c[1] = -p[1];
      c[2] = dpmpp_2m_correction(p[0], p[1], p[2]);
      break;
    case CombineOp::add_noise:  // sigma
      c[0] = 1.0 - p[0];
      c[1] = p[0];
      break;
    case CombineOp::blend:
      break;
  }
}

constexpr int kMaxCoefficients = 4;  // of any op but blend

// The `count` coefficients of sample b in the accumulation type A.
template <class A>
DANCEOPD_HD void coefficients_of(const CombineArgs& a, int64_t b, int count, A* c) {
  double p[kMaxCoefficients] = {}, wide[kMaxCoefficients] = {};
  if (!a.ready) {
    for (int k = 0; k < kMaxCoefficients && k < a.params; ++k) p[k] = value_of(a.param[k], b);
    coefficients(a.op, p, wide);
  }
  for (int k = 0; k < count; ++k) c[k] = static_cast<A>(a.ready ? a.coefficient[k] : wide[k]);
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
