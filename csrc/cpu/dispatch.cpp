#include "cpu/dispatch.h"

#include <cstring>

#include "core/dtype.h"
#include "core/reduce.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "ops/route.h"
#include "ops/sde_step.h"
#include "ops/velocity_mse.h"

namespace danceopd::cpu {
namespace {

int64_t elements_of(const PolicyLossArgs& a) {
  return a.elements;
}

template <class Args>
int64_t elements_of(const Args& a) {
  return a.batch * a.per_sample;
}

int useful_threads(int64_t elements, int threads) {
  const int64_t most = elements / kParallelElements;
  return static_cast<int>(most < threads ? (most < 1 ? 1 : most) : threads);
}

// In pieces: a long memcpy writes past the caches, which is slower wherever the result fits them, and where
// it does not, not faster.
void copy(char* out, const char* in, int64_t bytes) {
  constexpr int64_t kPiece = 256 << 10;
  for (int64_t at = 0; at < bytes; at += kPiece) {
    std::memcpy(out + at, in + at, static_cast<size_t>(bytes - at < kPiece ? bytes - at : kPiece));
  }
}

void route_samples(const RouteArgs& a, int64_t begin, int64_t end) {
  const int64_t sample_bytes = a.per_sample * bytes_of(a.dtype);
  const uint64_t nan = Route::nan_bits(a.dtype);
  for (int64_t b = begin; b < end; ++b) {
    char* out = static_cast<char*>(a.output) + b * sample_bytes;
    const char* in = Route::source(a, b, sample_bytes);
    if (in != nullptr) {
      copy(out, in, sample_bytes);
    } else {
      for (int64_t i = 0; i < a.per_sample; ++i)
        std::memcpy(out + i * bytes_of(a.dtype), &nan, bytes_of(a.dtype));
    }
  }
}

// The final pass of core/reduce.h: the sum of sample b's partials.
template <class A>
double sum_of_partials(const void* partials, int64_t b, int64_t blocks) {
  const A* of_sample = static_cast<const A*>(partials) + b * blocks;
  double lane[kThreads] = {};
  for (int64_t j = 0; j < blocks; ++j) lane[j % kThreads] += static_cast<double>(of_sample[j]);
  for (int apart = kThreads / 2; apart > 0; apart /= 2) {
    for (int t = 0; t < apart; ++t) lane[t] += lane[t + apart];
  }
  return lane[0];
}

template <class A>
void finish_losses(const VelocityMSEArgs& a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  for (int64_t b = 0; b < a.batch; ++b) {
    const double sum = sum_of_partials<A>(a.partials, b, blocks);
    static_cast<A*>(a.loss)[b] = static_cast<A>(weight_of(a, b) * sum / static_cast<double>(a.per_sample));
  }
  if (a.mean != nullptr) {
    *static_cast<A*>(a.mean) =
        static_cast<A>(sum_of_partials<A>(a.loss, 0, a.batch) / static_cast<double>(a.batch));
  }
}

template <class A>
void finish_policy_loss(const PolicyLossArgs& a) {
  const double sum = sum_of_partials<A>(a.partials, 0, blocks_per_sample(a.elements));
  *static_cast<A*>(a.loss) = static_cast<A>(sum / static_cast<double>(a.elements));
}

template <class A>
void finish_log_probs(const SDEArgs& a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  for (int64_t b = 0; b < a.batch; ++b) {
    const SDECoefficients c =
        sde_coefficients(value_of(a.sigma, b), value_of(a.sigma_next, b), a.noise_level);
    const double sum = sum_of_partials<A>(a.partials, b, blocks);
    static_cast<A*>(a.log_prob)[b] = static_cast<A>(sde_log_prob(sum, a.per_sample, c.step_std));
    static_cast<A*>(a.std)[b] = static_cast<A>(c.std);
  }
}

// Ranges of a kernel's units of work, in parallel where the elements are worth it.
template <class Args>
void run(void (*kernel)(const Args&, int64_t, int64_t), const Args& a, int64_t units, int threads) {
  struct Task {
    const Args& a;
    void (*kernel)(const Args&, int64_t, int64_t);
  } task = {a, kernel};
  parallel_for(
      units, useful_threads(elements_of(a), threads),
      [](const void* p, int64_t begin, int64_t end) {
        const Task& task = *static_cast<const Task*>(p);
        task.kernel(task.a, begin, end);
      },
      &task);
}

}  // namespace

void combine(const CombineArgs& a, int threads) {
  run(cpu_kernels().combine, a, a.batch * tiles_per_sample(a.per_sample), threads);
}

void route(const RouteArgs& a, int threads) {
  run(route_samples, a, a.batch, threads);
}

void velocity_mse(const VelocityMSEArgs& a, int threads) {
  run(cpu_kernels().velocity_mse, a, a.batch * blocks_per_sample(a.per_sample), threads);
  a.student.dtype == DType::f64 ? finish_losses<double>(a) : finish_losses<float>(a);
}

void policy_loss(const PolicyLossArgs& a, int threads) {
  run(cpu_kernels().policy_loss, a, blocks_per_sample(a.elements), threads);
  a.log_prob.dtype == DType::f64 ? finish_policy_loss<double>(a) : finish_policy_loss<float>(a);
}

void sde_step(const SDEArgs& a, int threads) {
  run(cpu_kernels().sde_step, a, a.batch * blocks_per_sample(a.per_sample), threads);
  a.output_dtype == DType::f64 ? finish_log_probs<double>(a) : finish_log_probs<float>(a);
}

}  // namespace danceopd::cpu
