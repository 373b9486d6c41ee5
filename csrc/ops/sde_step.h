// sde_step: the stochastic transition of Flow-GRPO and Flow-OPD (arXiv 2605.08043), its mean, its sample and
// the sample's log-probability.
#pragma once

#include "core/elementary.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

struct SDECoefficients {
  double sample, velocity;  // of the mean
  double std;               // per unit of sqrt(sigma)
  double step_std;          // of the transition
};

// A NaN stays one: both comparisons are false.
DANCEOPD_HD double clamped(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

DANCEOPD_HD SDECoefficients sde_coefficients(double sigma, double sigma_next, double noise_level) {
  const double now = clamped(sigma, 1e-4, 1.0), d = sigma_next - now;
  const double s = now >= 0.9999 ? clamped(sigma_next, 1e-4, 0.999) : now;  // 1 - sigma is 0 at pure noise
  const double std = noise_level * root(now / (1.0 - s < 1e-4 ? 1e-4 : 1.0 - s));
  const double drift = std * std / (2.0 * now);
  return {1.0 + drift * d, (1.0 + drift * (1.0 - now)) * d, std, std * root(-d < 1e-6 ? 1e-6 : -d)};
}

template <class A>
struct SDEStep {
  A from_sample, from_velocity, step_std;

  DANCEOPD_HD explicit SDEStep(const SDECoefficients& c)
      : from_sample(static_cast<A>(c.sample)),
        from_velocity(static_cast<A>(c.velocity)),
        step_std(static_cast<A>(c.step_std)) {}

  DANCEOPD_HD A mean(A sample, A velocity) const {
    return fused(from_velocity, velocity, from_sample * sample);
  }

  DANCEOPD_HD A next(A mean, A noise) const { return fused(step_std, noise, mean); }

  // Adds the element's part of the squared distance. `next` as it was stored: a sample handed back later has
  // the log-probability it had when it was drawn.
  DANCEOPD_HD static void add(A next, A mean, A& sum) {
    const A distance = next - mean;
    sum = fused(distance, distance, sum);
  }
};

// The mean over a sample's elements of the log-density, from their summed squared distance.
DANCEOPD_HD double sde_log_prob(double sum, int64_t elements, double step_std) {
  const double half_log_two_pi = 0.91893853320467274;
  const double exponent = sum / static_cast<double>(elements) / (2.0 * step_std * step_std);
  return -exponent - logarithm(step_std) - half_log_two_pi;
}

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
