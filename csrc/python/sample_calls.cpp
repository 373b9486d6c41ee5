// Calls that treat each sample as a whole: the hard choice of a field, the loss, the stochastic step.
#include "core/reduce.h"
#include "python/calls.h"
#include "python/read.h"
#include "python/run.h"

namespace danceopd::python {
namespace {

DType sum_dtype(const Tensor& t) {
  return t.dtype == DType::f64 ? DType::f64 : DType::f32;
}

// Memory that a call needs while it runs: on the stack where the CPU needs little of it, else from torch,
// whose allocator knows which stream still uses it.
class Workspace {
 public:
  Workspace(const Tensor& like, int64_t size) {
    if (like.device != kCpu || size > kSmall) memory_ = new_vector(like, size, sum_dtype(like));
  }
  void* data() { return memory_.data == nullptr ? small_ : memory_.data; }

 private:
  static constexpr int64_t kSmall = 32;
  Tensor memory_;
  double small_[kSmall];
};

int64_t partials_of(const Tensor& t) {
  return t.batch * blocks_per_sample(t.per_sample);
}

}  // namespace

// fields, index
PyObject* route(const Reader& reader, Arguments in) {
  RouteArgs args;
  const Ref held = read_fields(in[0]);
  args.fields = read_length(held.get());
  PyObject** fields = PySequence_Fast_ITEMS(held.get());
  const Tensor first = read_first(reader, fields[0]);
  args.field[0] = first.data;
  for (int k = 1; k < args.fields; ++k) args.field[k] = read_like(reader, fields[k], first, true).data;
  const Tensor index = reader.read_index(in[1]);
  require(index.device == first.device && index.batch == first.batch && index.dimensions == 1);
  args.index = static_cast<const int64_t*>(index.data);
  if (reader.caller() == Caller::user && first.device == kCpu) {
    for (int64_t b = 0; b < first.batch; ++b) require(0 <= args.index[b] && args.index[b] < args.fields);
  }
  args.dtype = first.dtype;
  args.batch = first.batch;
  args.per_sample = first.per_sample;
  Tensor out = new_like(first);
  args.output = out.data;
  DANCEOPD_RUN(route, args, first);
  return out.owner.release();
}

// student, teacher, uncond, scale, weight, mask, batch_stride, inner, period, gradient_scale, gradient wanted
// (or None), mean wanted (or None: a loss per sample), whether the weight is a std (or None). Returns (loss,
// gradient or None). A student that requires grad is taken: Python attaches the gradient to it.
PyObject* velocity_mse(const Reader& reader, Arguments in) {
  const Tensor student = read_first(reader, in[0], Gradient::caller);
  VelocityMSEArgs args = {};
  args.student = student.input();
  args.teacher = read_like(reader, in[1], student, false).input();
  if (in[2] != Py_None) args.uncond = read_like(reader, in[2], student, false).input();
  args.scale = read_finite(reader, in[3], student);
  args.weight = {1.0, nullptr, 1, DType::f64};
  args.weight_is_std = in[12] != Py_None;
  require(!args.weight_is_std || in[4] != Py_None);
  if (in[4] != Py_None) {
    args.weight = args.weight_is_std ? read_std(reader, in[4], student) : read_finite(reader, in[4], student);
  }
  if (in[5] != Py_None) {
    require(reader.caller() == Caller::dispatcher);  // only Python works out how a mask is laid out
    const Tensor mask = reader.read(in[5]);
    require(mask.device == student.device && (student.dtype == DType::f64 || mask.dtype != DType::f64));
    args.mask = {mask.input(), PyLong_AsLongLong(in[6]), PyLong_AsLongLong(in[7]), PyLong_AsLongLong(in[8])};
    const int64_t most = (student.batch - 1) * args.mask.batch_stride + args.mask.period;
    require(args.mask.batch_stride >= 0 && args.mask.inner > 0 && args.mask.period > 0 &&
            most <= mask.elements());
  }
  args.gradient_scale = read_number(in[9]);
  args.batch = student.batch;
  args.per_sample = student.per_sample;

  const bool mean = in[11] != Py_None;
  const Tensor loss =
      mean ? new_scalar(student, sum_dtype(student)) : new_vector(student, student.batch, sum_dtype(student));
  Workspace partials(student, partials_of(student)), each(student, mean ? student.batch : 0);
  args.loss = mean ? each.data() : loss.data;
  args.mean = mean ? loss.data : nullptr;
  args.partials = partials.data();
  Tensor gradient;
  if (in[10] != Py_None) {
    gradient = new_like(student);
    args.gradient = gradient.data;
    args.gradient_dtype = gradient.dtype;
  }
  DANCEOPD_RUN(velocity_mse, args, student);
  return PyTuple_Pack(2, loss.object, args.gradient == nullptr ? Py_None : gradient.object);
}

// log_prob, old_log_prob, advantage, clip_range, advantage_clip, gradient_scale (a number, or a tensor of
// one), gradient wanted (or None). Returns (loss, gradient or None); log_prob may require grad, as above.
PyObject* policy_loss(const Reader& reader, Arguments in) {
  const Tensor log_prob = read_first(reader, in[0], Gradient::caller);
  PolicyLossArgs args = {};
  args.log_prob = log_prob.input();
  args.old_log_prob = read_like(reader, in[1], log_prob, false).input();
  args.advantage = read_like(reader, in[2], log_prob, false).input();
  args.clip_range = read_number(in[3]);
  args.advantage_clip = read_number(in[4]);
  require(0.0 < args.clip_range && args.clip_range < 1.0 && args.advantage_clip > 0.0);
  args.gradient_scale = read_scale(reader, in[5], log_prob);
  args.elements = log_prob.elements();

  const Tensor loss = new_scalar(log_prob, sum_dtype(log_prob));
  Workspace partials(log_prob, blocks_per_sample(args.elements));
  args.loss = loss.data;
  args.partials = partials.data();
  Tensor gradient;
  if (in[6] != Py_None) {
    gradient = new_like(log_prob);
    args.gradient = gradient.data;
    args.gradient_dtype = gradient.dtype;
  }
  DANCEOPD_RUN(policy_loss, args, log_prob);
  return PyTuple_Pack(2, loss.object, args.gradient == nullptr ? Py_None : gradient.object);
}

// sample, velocity, next_sample, noise, seed, sigma, sigma_next, noise_level; the first of next_sample, noise
// and seed that is not None counts. Returns (the sample drawn, or None when it was given; mean; log_prob;
// std).
PyObject* sde_step(const Reader& reader, Arguments in) {
  const Tensor sample = read_first(reader, in[0]);
  SDEArgs args = {};
  args.sample = sample.input();
  args.velocity = read_like(reader, in[1], sample, false).input();
  const bool given = in[2] != Py_None;
  if (given) {
    args.next_sample = read_like(reader, in[2], sample, false).input();
  } else if (in[3] != Py_None) {
    args.noise = read_like(reader, in[3], sample, false).input();
  } else {
    args.seed = read_seed(reader, in[4], sample);
  }
  args.sigma = read_sigma(reader, in[5], sample);
  args.sigma_next = read_sigma(reader, in[6], sample);
  require_descending(reader, args.sigma, args.sigma_next, sample);
  args.noise_level = read_number(in[7]);
  require(args.noise_level > 0.0);
  args.batch = sample.batch;
  args.per_sample = sample.per_sample;

  Tensor next;
  if (!given) next = new_like(sample);
  const Tensor mean = new_like(sample);
  Workspace partials(sample, partials_of(sample));
  const Tensor log_prob = new_vector(sample, sample.batch, sum_dtype(sample));
  const Tensor std = new_vector(sample, sample.batch, sum_dtype(sample));
  args.output_dtype = sample.dtype;
  args.next = next.data;
  args.mean = mean.data;
  args.partials = partials.data();
  args.log_prob = log_prob.data;
  args.std = std.data;
  DANCEOPD_RUN(sde_step, args, sample);
  return PyTuple_Pack(4, given ? Py_None : next.object, mean.object, log_prob.object, std.object);
}

}  // namespace danceopd::python
