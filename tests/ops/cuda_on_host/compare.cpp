// Every op of csrc/cuda, compiled for the host, against the CPU kernels: the same bits, under the sanitizers.
//
//   compare             run everything; the last line names the ops
//   compare OP ...      only these
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/reduce.h"
#include "cpu/dispatch.h"
#include "cuda/launch.h"
#include "cuda_runtime.h"
#include "ops/coefficients.h"
#include "trial.h"

namespace danceopd::test {
namespace {

// -- the ops --------------------------------------------------------------------------------------------

struct Operands {
  std::vector<Input> inputs;
  std::vector<Param> params;
};

void combine(Trial& t, CombineOp op, const Operands& from, int outputs = 1) {
  using Args = CombineArgs;
  Args a = {};
  a.op = op;
  a.inputs = static_cast<int32_t>(from.inputs.size());
  a.params = static_cast<int32_t>(from.params.size());
  std::copy(from.inputs.begin(), from.inputs.end(), a.input);
  std::copy(from.params.begin(), from.params.end(), a.param);
  a.output_dtype = t.sample;
  a.batch = t.each ? t.batch : 1;
  a.per_sample = t.each ? t.per_sample : t.elements();
  a.ready =
      std::all_of(from.params.begin(), from.params.end(), [](const Param& p) { return p.each == nullptr; });
  if (a.ready && op != CombineOp::blend) {
    double p[kMaxCoefficients] = {};
    for (int k = 0; k < a.params; ++k) p[k] = a.param[k].value;
    coefficients(op, p, a.coefficient);
  }
  Outputs<Args> results = {{"output", [](Args& a) -> void*& { return a.output[0]; }, t.sample, t.elements()}};
  if (outputs > 1) {
    results.push_back(
        {"second output", [](Args& a) -> void*& { return a.output[1]; }, t.sample, t.elements()});
  }
  t.compare<Args>(a, results, cpu::combine, cuda::combine);
}

void guide(Trial& t) {
  combine(t, CombineOp::guide, {{t.sample_like(), t.sample_like()}, {t.param(-2, 8)}});
}

void euler_step(Trial& t) {
  combine(t, CombineOp::euler_step,
          {{t.sample_like(), t.velocity_like()}, {t.param(0.5, 1), t.param(0, 0.5)}});
}

void guided_euler_step(Trial& t) {
  combine(t, CombineOp::guided_euler_step,
          {{t.sample_like(), t.velocity_like(), t.velocity_like()},
           {t.param(0.5, 1), t.param(0, 0.5), t.param(-2, 8)}});
}

void heun_step(Trial& t) {
  combine(t, CombineOp::heun_step,
          {{t.sample_like(), t.velocity_like(), t.velocity_like()}, {t.param(0.5, 1), t.param(0, 0.5)}});
}

// sigma_previous, sigma, sigma_next; at times from pure noise, or to the clean sample
std::vector<Param> three_sigmas(Trial& t) {
  const double first = t.coin() ? 1.0 : 0.7, last = t.coin() ? 0.0 : 0.3;
  return {t.param(first, 1), t.param(0.4, 0.6), t.param(0, last)};
}

void ab2_step(Trial& t) {
  combine(t, CombineOp::ab2_step, {{t.sample_like(), t.velocity_like(), t.velocity_like()}, three_sigmas(t)});
}

void guided_ab2_step(Trial& t) {
  std::vector<Param> params = three_sigmas(t);
  params.push_back(t.param(-2, 8));
  combine(t, CombineOp::guided_ab2_step,
          {{t.sample_like(), t.velocity_like(), t.velocity_like(), t.velocity_like()}, params});
}

void first_dpmpp_2m_step(Trial& t) {
  combine(t, CombineOp::first_dpmpp_2m_step,
          {{t.sample_like(), t.velocity_like()}, {t.param(0.5, 1), t.param(0, 0.5)}}, 2);
}

void dpmpp_2m_step(Trial& t) {
  combine(t, CombineOp::dpmpp_2m_step,
          {{t.sample_like(), t.velocity_like(), t.sample_like()}, three_sigmas(t)}, 2);
}

void add_noise(Trial& t) {
  combine(t, CombineOp::add_noise, {{t.sample_like(), t.velocity_like()}, {t.param(0, 1)}});
}

void blend(Trial& t) {
  for (int fields : {1, 3, 32}) {
    if (fields * t.elements() > 100000) continue;
    Operands from;
    for (int k = 0; k < fields; ++k) {
      from.inputs.push_back(t.sample_like());
      from.params.push_back(t.param(-1, 1));
    }
    combine(t, CombineOp::blend, from);
  }
}

void route(Trial& t) {
  RouteArgs a = {};
  a.fields = 3;
  a.dtype = t.sample;
  a.batch = t.batch;
  a.per_sample = t.per_sample;
  for (int k = 0; k < a.fields; ++k) a.field[k] = t.sample_like().data;
  a.index = t.each ? t.index(-1, a.fields) : t.index(0, a.fields - 1);  // out of range gives NaN
  const auto result = [](RouteArgs& a) -> void*& { return a.output; };
  t.compare<RouteArgs>(a, {{"output", result, a.dtype, t.elements()}}, cpu::route, cuda::route);
}

// The masks that broadcasting makes: each element its own; one row for all samples, its elements repeated.
Mask some_mask(Trial& t, DType dtype) {
  if (t.each) return {t.bits(dtype, t.elements()), t.per_sample, 1, t.per_sample};
  const int64_t inner = 3, period = std::max<int64_t>(1, t.per_sample / 7);
  return {t.bits(dtype, period), 0, inner, period};
}

void velocity_mse(Trial& t) {
  using Args = VelocityMSEArgs;
  Args a = {};
  a.student = t.sample_like();
  a.teacher = t.velocity_like();
  if (t.coin()) a.uncond = t.velocity_like();
  a.scale = t.param(-2, 8);
  a.weight_is_std = t.coin();
  a.weight = t.param(a.weight_is_std ? 0.5 : 0, 2);
  if (t.coin()) a.mask = some_mask(t, t.coin() ? DType::u8 : t.sample);
  a.gradient_scale = 0.75;
  a.gradient_dtype = t.sample;
  a.batch = t.batch;
  a.per_sample = t.per_sample;

  const int64_t blocks = t.batch * blocks_per_sample(t.per_sample);
  Outputs<Args> outputs = {
      {"partials", [](Args& a) -> void*& { return a.partials; }, DType::f32, blocks},
      {"loss", [](Args& a) -> void*& { return a.loss; }, DType::f32, t.batch},
  };
  if (t.coin()) outputs.push_back({"mean", [](Args& a) -> void*& { return a.mean; }, DType::f32, 1});
  if (t.coin()) {
    outputs.push_back({"gradient", [](Args& a) -> void*& { return a.gradient; }, t.sample, t.elements()});
  }
  t.compare<Args>(a, outputs, cpu::velocity_mse, cuda::velocity_mse);
}

void policy_loss(Trial& t) {
  using Args = PolicyLossArgs;
  Args a = {};
  a.log_prob = t.sample_like();
  a.old_log_prob = t.velocity_like();
  a.advantage = t.velocity_like();
  a.clip_range = t.coin() ? 1e-4 : 0.5;
  a.advantage_clip = 0.8;
  a.gradient_scale = t.each ? t.param(-2, 8) : Param{0.75, nullptr, 0, DType::f64};
  a.gradient_dtype = t.sample;
  a.elements = t.elements();

  Outputs<Args> outputs = {
      {"partials", [](Args& a) -> void*& { return a.partials; }, DType::f32, blocks_per_sample(a.elements)},
      {"loss", [](Args& a) -> void*& { return a.loss; }, DType::f32, 1},
  };
  if (t.coin()) {
    outputs.push_back({"gradient", [](Args& a) -> void*& { return a.gradient; }, t.sample, t.elements()});
  }
  t.compare<Args>(a, outputs, cpu::policy_loss, cuda::policy_loss);
}

// The noise is drawn from a seed, or from one per sample, or given; or the next sample is given.
void sde_step(Trial& t) {
  using Args = SDEArgs;
  Args a = {};
  a.sample = t.sample_like();
  a.velocity = t.velocity_like();
  const bool given = t.coin();
  if (given) a.next_sample = t.sample_like();
  if (!given && t.coin()) a.noise = t.velocity_like();
  a.seed = {t.coin() ? -5 : (int64_t{1} << 40) + 3, t.coin() ? t.index(-9, 1 << 30) : nullptr};
  a.sigma = t.param(0.5, 1);
  a.sigma_next = t.param(0, 0.5);
  a.noise_level = 0.7;
  a.output_dtype = t.sample;
  a.batch = t.batch;
  a.per_sample = t.per_sample;

  const int64_t blocks = t.batch * blocks_per_sample(t.per_sample);
  Outputs<Args> outputs = {
      {"mean", [](Args& a) -> void*& { return a.mean; }, t.sample, t.elements()},
      {"partials", [](Args& a) -> void*& { return a.partials; }, DType::f32, blocks},
      {"log_prob", [](Args& a) -> void*& { return a.log_prob; }, DType::f32, t.batch},
      {"std", [](Args& a) -> void*& { return a.std; }, DType::f32, t.batch},
  };
  if (!given) outputs.push_back({"next", [](Args& a) -> void*& { return a.next; }, t.sample, t.elements()});
  t.compare<Args>(a, outputs, cpu::sde_step, cuda::sde_step);
}

struct Op {
  const char* name;
  void (*run)(Trial&);
  bool reduces = false;
};

const Op kOps[] = {
    {"guide", guide},
    {"euler_step", euler_step},
    {"guided_euler_step", guided_euler_step},
    {"heun_step", heun_step},
    {"ab2_step", ab2_step},
    {"guided_ab2_step", guided_ab2_step},
    {"first_dpmpp_2m_step", first_dpmpp_2m_step},
    {"dpmpp_2m_step", dpmpp_2m_step},
    {"add_noise", add_noise},
    {"blend", blend},
    {"route", route},
    {"velocity_mse", velocity_mse, true},
    {"policy_loss", policy_loss, true},
    {"sde_step", sde_step, true},
};

// -- the settings ---------------------------------------------------------------------------------------

std::vector<Setting> settings(bool reduces) {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  constexpr DType kDtypes[][2] = {{f32, f32}, {bf16, bf16}, {f16, f16}, {f32, bf16}, {f32, f16}};
  constexpr int64_t kShapes[][2] = {{1, 1},    {3, 5},    {2, 8},    {2, 15},
                                    {3, 1023}, {2, 4096}, {3, 4099}, {1, 9001}};
  std::vector<Setting> all;
  unsigned n = 0;
  for (const auto& shape : kShapes) {
    for (const auto& dtype : kDtypes) {
      for (int offset : {0, 1, 3, kVaried}) {
        const bool long_wait = reduces && shape[0] * shape[1] >= kBlock;  // barriers take their time here
        if (++n % 3 == 0 || !long_wait) {
          all.push_back(
              {shape[0], shape[1], dtype[0], dtype[1], offset, (n + n / 4) % 2 == 0, n % 5 == 0, n});
        }
      }
    }
  }
  if (reduces) {  // more blocks per sample than the final pass has threads
    all.push_back({1, kBlock * (kThreads + 1) + 1, bf16, bf16, 0, true, false, ++n});
  } else {
    all.push_back({1, 70001, f32, bf16, kVaried, false, false, ++n});
  }
  return all;
}

// -- errors ---------------------------------------------------------------------------------------------

std::string message_of(int64_t batch, int64_t per_sample, int device) {
  CombineArgs a = {};
  a.op = CombineOp::guide;
  a.batch = batch;
  a.per_sample = per_sample;
  try {
    cuda::combine(a, device, 0);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing";
}

std::vector<std::string> errors() {
  std::vector<std::string> failures;
  const auto expect = [&](const std::string& message, const std::string& found) {
    if (message != found) failures.push_back("expected the error '" + message + "', got '" + found + "'");
  };
  expect("guide needs more thread blocks than CUDA allows; split the batch.", message_of(1 << 30, 5000, 0));
  expect("guide failed: invalid configuration argument.", message_of(0, 1, 0));
  expect("cudaSetDevice failed: invalid device ordinal.", message_of(1, 1, 5));
  if (cudaGetLastError() != cudaSuccess) failures.push_back("an error stayed behind in the runtime");
  if (!cuda::usable(1) || cuda::usable(9)) failures.push_back("cuda::usable does not know the devices");
  if (cuda::status().devices.size() != 2) failures.push_back("cuda::status does not know the devices");
  return failures;
}

int show(const std::string& where, const std::vector<std::string>& failures) {
  for (const std::string& failure : failures) std::printf("%s: %s\n", where.c_str(), failure.c_str());
  return static_cast<int>(failures.size());
}

int main(const std::vector<std::string>& chosen) {
  constexpr int kShown = 3;  // failed settings of one op
  int wrong = show("errors", errors());
  std::string names;
  for (const Op& op : kOps) {
    if (!chosen.empty() && std::count(chosen.begin(), chosen.end(), op.name) == 0) continue;
    int failed = 0;
    for (const Setting& setting : settings(op.reduces)) {
      Trial trial(setting);
      op.run(trial);
      if (!trial.failures().empty() && ++failed <= kShown)
        show(op.name + (": " + text(setting)), trial.failures());
    }
    std::printf("%s: %s\n", op.name,
                failed == 0 ? "same bits" : (std::to_string(failed) + " settings differ").c_str());
    wrong += failed;
    names += (names.empty() ? "" : " ") + std::string(op.name);
  }
  std::printf("%s %s\n", wrong == 0 ? "passed:" : "FAILED:", names.c_str());
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace danceopd::test

int main(int count, char** arguments) {
  return danceopd::test::main({arguments + 1, arguments + count});
}
