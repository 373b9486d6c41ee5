// The plain-data arguments of every kernel: pointers, dtype codes and counts. No Python, no libtorch, no
// templates, so one definition serves all units.
#pragma once

#include <cstdint>

namespace danceopd {

enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2, f64 = 3, u8 = 4 };

constexpr int kMaxInputs = 32;

struct Input {
  const void* data;
  DType dtype;
};

// A coefficient's source (a sigma, a guidance scale, a weight): one value, or one per sample at each[b *
// stride].
struct Param {
  double value;
  const void* each;  // nullptr: use value
  int64_t stride;
  DType dtype;
};

enum class CombineOp : int32_t {
  guide,
  euler_step,
  guided_euler_step,
  heun_step,
  ab2_step,
  guided_ab2_step,
  first_dpmpp_2m_step,
  dpmpp_2m_step,
  add_noise,
  blend
};

constexpr int kMaxOutputs = 2;

// outputs[.][b, i] = op(inputs[.][b, i]; coefficients(params[.][b]))
struct CombineArgs {
  CombineOp op;
  int32_t inputs;
  int32_t params;
  bool ready;  // `coefficient` holds what the op multiplies with; else it depends on tensors of parameters
  DType output_dtype;
  void* output[kMaxOutputs];
  int64_t batch;       // 1 when no parameter varies per sample
  int64_t per_sample;  // elements
  Input input[kMaxInputs];
  Param param[kMaxInputs];
  double coefficient[kMaxInputs];
};

// output[b] = input[index[b]][b]; NaN where index[b] is out of range
struct RouteArgs {
  int32_t fields;
  DType dtype;
  void* output;
  const int64_t* index;
  int64_t batch;
  int64_t per_sample;
  const void* field[kMaxInputs];
};

// The mask of element i of sample b is mask[b * batch_stride + (i / inner) % period].
struct Mask {
  Input input;  // data == nullptr: no mask
  int64_t batch_stride;
  int64_t inner;
  int64_t period;
};

struct VelocityMSEArgs {
  Input student;
  Input teacher;
  Input uncond;  // data == nullptr: no guidance
  Param scale;
  Param weight;
  bool weight_is_std;  // the weight is then 1 / (2 weight^2), of a Gaussian's exponent
  Mask mask;
  double gradient_scale;
  void* gradient;  // nullptr: loss only
  DType gradient_dtype;
  void* partials;  // [batch, blocks_per_sample], f64 when the student is f64, else f32
  void* loss;      // [batch], same dtype as partials
  void* mean;      // one value, their mean; nullptr: not wanted
  int64_t batch;
  int64_t per_sample;
};

// loss = the mean over all elements of Flow-OPD's clipped objective, and its gradient times gradient_scale.
struct PolicyLossArgs {
  Input log_prob;
  Input old_log_prob;
  Input advantage;
  double clip_range;
  double advantage_clip;
  Param gradient_scale;  // one value
  void* gradient;        // nullptr: loss only
  DType gradient_dtype;
  void* partials;  // [blocks_per_sample(elements)], f64 when log_prob is f64, else f32
  void* loss;      // one value, same dtype as partials
  int64_t elements;
};

// Where the noise of a stochastic step comes from. Without `each`, element i of sample b is element b *
// per_sample + i of the stream of `seed`; with it, element i of the stream of each[b].
struct Seed {
  int64_t seed;
  const int64_t* each;
};

// mean and next[b, i] of a stochastic step, and the log-probability of `next`. The first that is given
// counts: next_sample (then `next` is not written), noise, seed.
struct SDEArgs {
  Input sample;
  Input velocity;
  Input next_sample;  // data == nullptr: not given
  Input noise;        // likewise
  Seed seed;
  Param sigma;
  Param sigma_next;
  double noise_level;
  DType output_dtype;  // of next and mean
  void* next;
  void* mean;
  void* partials;  // [batch, blocks_per_sample], f64 when the sample is f64, else f32
  void* log_prob;  // [batch], same dtype as partials
  void* std;       // likewise
  int64_t batch;
  int64_t per_sample;
};

}  // namespace danceopd
