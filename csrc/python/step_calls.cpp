// Calls that combine tensors element by element: the steps and the blend.
#include "ops/coefficients.h"
#include "python/calls.h"
#include "python/read.h"
#include "python/run.h"

namespace danceopd::python {
namespace {

// Collects the arguments of one call, then runs it.
class Combination {
 public:
  Combination(const Reader& reader, CombineOp op, PyObject* first)
      : reader_(reader), first_(read_first(reader, first)) {
    args_.op = op;
    args_.inputs = args_.params = 0;
    add(first_.input());
  }

  // Fields of one guidance or blend share a dtype; a velocity may be narrower than the sample.
  void field(PyObject* object) { add(read_like(reader_, object, first_, true).input()); }
  void tensor(PyObject* object) { add(read_like(reader_, object, first_, false).input()); }
  const Param& sigma(PyObject* object) { return add(read_sigma(reader_, object, first_)); }
  const Param& number(PyObject* object) { return add(read_finite(reader_, object, first_)); }
  const Param& add(const Param& p) { return args_.param[args_.params++] = p; }

  // The velocity without the condition and its scale, which is looked at even where it does not count.
  void guidance(PyObject* uncond, PyObject* scale, CombineOp guided) {
    const Param s = read_finite(reader_, scale, first_);
    if (uncond == Py_None) return;
    args_.op = guided;
    tensor(uncond);
    add(s);
  }

  const Tensor& first() const { return first_; }
  int inputs() const { return args_.inputs; }

  // Into `out` where that is a tensor; fresh where it is None.
  PyObject* result(PyObject* out) {
    if (out == Py_None) {
      run_into(1);
      return out_[0].owner.release();
    }
    out_[0] = read_out(reader_, out, first_, args_);
    run_into(1);
    count_write(out);
    Py_INCREF(out);
    return out;
  }

  PyObject* two_results() {
    run_into(2);
    return PyTuple_Pack(2, out_[0].object, out_[1].object);
  }

 private:
  void add(const Input& input) { args_.input[args_.inputs++] = input; }

  void run_into(int outputs) {
    bool varies = false;
    args_.ready = true;
    for (int k = 0; k < args_.params; ++k) {
      const bool each = args_.param[k].each != nullptr;
      args_.ready = args_.ready && !each;
      varies = varies || (each && args_.param[k].stride != 0);
    }
    if (args_.ready && args_.op != CombineOp::blend) {
      double p[kMaxCoefficients] = {};
      for (int k = 0; k < args_.params; ++k) p[k] = args_.param[k].value;
      coefficients(args_.op, p, args_.coefficient);
    }
    args_.batch = varies ? first_.batch : 1;
    args_.per_sample = varies ? first_.per_sample : first_.elements();
    args_.output_dtype = first_.dtype;
    for (int k = 0; k < outputs; ++k) {
      if (out_[k].data == nullptr) out_[k] = new_like(first_);
      args_.output[k] = out_[k].data;
    }
    DANCEOPD_RUN(combine, args_, first_);
  }

  const Reader& reader_;
  Tensor first_;
  Tensor out_[kMaxOutputs];
  CombineArgs args_;  // the parts that count are filled in, and no others: it is two kilobytes
};

}  // namespace

// uncond, cond, scale, out
PyObject* guide(const Reader& reader, Arguments in) {
  Combination c(reader, CombineOp::guide, in[1]);
  c.field(in[0]);
  c.number(in[2]);
  return c.result(in[3]);
}

// sample, velocity, uncond, sigma, sigma_next, scale, out
PyObject* euler_step(const Reader& reader, Arguments in) {
  Combination c(reader, CombineOp::euler_step, in[0]);
  c.tensor(in[1]);
  const Param &now = c.sigma(in[3]), &then = c.sigma(in[4]);
  require_descending(reader, now, then, c.first());
  c.guidance(in[2], in[5], CombineOp::guided_euler_step);
  return c.result(in[6]);
}

// sample, velocity, velocity_next, sigma, sigma_next, out
PyObject* heun_step(const Reader& reader, Arguments in) {
  Combination c(reader, CombineOp::heun_step, in[0]);
  c.tensor(in[1]);
  c.tensor(in[2]);
  const Param &now = c.sigma(in[3]), &then = c.sigma(in[4]);
  require_descending(reader, now, then, c.first());
  return c.result(in[5]);
}

// sample, velocity, velocity_previous, uncond, sigma_previous, sigma, sigma_next, scale, out
PyObject* ab2_step(const Reader& reader, Arguments in) {
  Combination c(reader, CombineOp::ab2_step, in[0]);
  c.tensor(in[1]);
  c.tensor(in[2]);
  const Param &before = c.sigma(in[4]), &now = c.sigma(in[5]), &then = c.sigma(in[6]);
  require_descending(reader, now, then, c.first());
  require_moved(reader, before, now, then, c.first());
  c.guidance(in[3], in[7], CombineOp::guided_ab2_step);
  return c.result(in[8]);
}

// sample, velocity, clean_previous (None for the first step), sigma_previous, sigma, sigma_next
PyObject* dpmpp_2m_step(const Reader& reader, Arguments in) {
  const bool first = in[2] == Py_None;
  Combination c(reader, first ? CombineOp::first_dpmpp_2m_step : CombineOp::dpmpp_2m_step, in[0]);
  c.tensor(in[1]);
  const Param* before = nullptr;
  if (!first) {
    c.tensor(in[2]);
    before = &c.sigma(in[3]);
  }
  const Param &now = c.sigma(in[4]), &then = c.sigma(in[5]);
  require_descending(reader, now, then, c.first());
  if (!first) require_moved(reader, *before, now, then, c.first());
  return c.two_results();
}

// clean, noise, sigma, out
PyObject* add_noise(const Reader& reader, Arguments in) {
  Combination c(reader, CombineOp::add_noise, in[0]);
  c.tensor(in[1]);
  c.sigma(in[2]);
  return c.result(in[3]);
}

// fields, weights, out
PyObject* blend(const Reader& reader, Arguments in) {
  const Ref held = read_fields(in[0]);
  const int count = read_length(held.get());
  PyObject** fields = PySequence_Fast_ITEMS(held.get());
  Combination c(reader, CombineOp::blend, fields[0]);
  for (int k = 1; k < count; ++k) c.field(fields[k]);

  if (PyList_Check(in[1]) || PyTuple_Check(in[1])) {
    require(read_length(in[1]) == count);
    for (int k = 0; k < count; ++k) {
      PyObject* weight = PySequence_Fast_GET_ITEM(in[1], k);
      require(PyFloat_Check(weight) || PyLong_CheckExact(weight));
      c.number(weight);
    }
    return c.result(in[2]);
  }
  const Tensor weights = reader.read(in[1]);  // [K] or [B, K]
  require(weights.dimensions <= 2 && weights.device == c.first().device && weights.dtype != DType::u8);
  require(weights.dimensions == 2 ? weights.batch == c.first().batch && weights.per_sample == count
                                  : weights.batch == count);
  for (int k = 0; k < count; ++k) c.add(weight_of_field(reader, weights, c.first(), count, k));
  return c.result(in[2]);
}

}  // namespace danceopd::python
