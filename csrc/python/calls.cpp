#include "python/calls.h"

#include <pybind11/pybind11.h>

#include <cmath>

#include "core/dtype.h"
#include "core/reduce.h"
#include "cpu/dispatch.h"
#include "cuda/launch.h"
#include "python/tensor.h"

namespace danceopd::python {
namespace {

// -- running --------------------------------------------------------------------------------------------

class WithoutGil {
 public:
  explicit WithoutGil(bool worth_it) : state_(worth_it ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

template <class Args>
using CpuOp = void (*)(const Args&, int threads);
template <class Args>
using CudaOp = void (*)(const Args&, int device, uintptr_t stream);

template <class Args>
void run(const Args& args, const Tensor& like, CpuOp<Args> on_cpu, [[maybe_unused]] CudaOp<Args> on_cuda) {
#if defined(DANCEOPD_CUDA_BUILT)
  if (like.device != kCpu) {
    const uintptr_t stream = current_stream(like.device);
    WithoutGil released(true);
    return on_cuda(args, like.device, stream);
  }
#endif
  const bool large = like.elements() >= kParallelElements;
  const int threads = large ? thread_count() : 1;
  WithoutGil released(large);
  on_cpu(args, threads);
}

#if defined(DANCEOPD_CUDA_BUILT)
#define DANCEOPD_RUN(op, args, like) run(args, like, &cpu::op, &cuda::op)
#else
#define DANCEOPD_RUN(op, args, like) run(args, like, &cpu::op, decltype(&cuda::op){nullptr})
#endif

// -- reading arguments ----------------------------------------------------------------------------------

void require(bool plain) {
  if (!plain) throw NotPlain();
}

Tensor read_like(const Reader& reader, PyObject* object, const Tensor& like, bool same_dtype) {
  Tensor t = reader.read(object);
  require(same_shape(t, like) && t.device == like.device && t.dtype != DType::u8);
  require(same_dtype ? t.dtype == like.dtype : (t.dtype == DType::f64) == (like.dtype == DType::f64));
  return t;
}

Tensor read_first(const Reader& reader, PyObject* object) {
  Tensor t = reader.read(object);
  require(t.dtype != DType::u8 && (t.dtype != DType::f64 || t.device == kCpu));  // f64 kernels: CPU only
  return t;
}

bool all_in(const Param& p, int64_t batch, double low, double high) {
  for (int64_t b = 0; b < (p.each == nullptr ? 1 : batch); ++b) {
    const double value = value_of(p, b);
    if (!(low <= value && value <= high)) return false;
  }
  return true;
}

constexpr double kHuge = 1.7976931348623157e308;  // finite

// A number, or a [B] tensor beside the samples. Only values the host can see are checked: reading a CUDA
// tensor would wait for the device.
Param read_param(const Reader& reader, PyObject* object, const Tensor& like, double low, double high) {
  Param p = {0.0, nullptr, 1, DType::f64};
  if (PyFloat_Check(object)) {
    p.value = PyFloat_AS_DOUBLE(object);
  } else if (PyLong_CheckExact(object)) {
    p.value = PyLong_AsDouble(object);
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw NotPlain();
    }
  } else {
    const Tensor t = reader.read(object);
    require(t.device == like.device && t.per_sample == 1 && t.batch == like.batch && t.dtype != DType::u8);
    require(PyTuple_GET_SIZE(t.shape.get()) == 1);
    p.each = t.data;
    p.dtype = t.dtype;
  }
  if (reader.caller() == Caller::user && (p.each == nullptr || like.device == kCpu)) {
    require(all_in(p, like.batch, low, high));
  }
  return p;
}

Param read_sigma(const Reader& reader, PyObject* object, const Tensor& like) {
  return read_param(reader, object, like, 0.0, 1.0);
}

Param read_finite(const Reader& reader, PyObject* object, const Tensor& like) {
  return read_param(reader, object, like, -kHuge, kHuge);
}

bool descending(const Param& sigma, const Param& sigma_next, int64_t batch, int device) {
  const bool varies = sigma.each != nullptr || sigma_next.each != nullptr;
  if (varies && device != kCpu) return true;  // not seen from the host
  for (int64_t b = 0; b < (varies ? batch : 1); ++b) {
    if (value_of(sigma_next, b) > value_of(sigma, b)) return false;
  }
  return true;
}

PyObject* finish_combine(CombineArgs& args, const Tensor& like) {
  bool varies = false;
  for (int k = 0; k < args.params; ++k)
    varies = varies || (args.param[k].each != nullptr && args.param[k].stride != 0);
  args.batch = varies ? like.batch : 1;
  args.per_sample = varies ? like.per_sample : like.elements();
  Tensor out = new_like(like);
  args.output = out.data;
  args.output_dtype = out.dtype;
  DANCEOPD_RUN(combine, args, like);
  return out.owner.release();
}

// -- the calls ------------------------------------------------------------------------------------------

using Arguments = PyObject* const*;

PyObject* guide(const Reader& reader, Arguments in) {
  const Tensor uncond = read_first(reader, in[0]);
  const Tensor cond = read_like(reader, in[1], uncond, true);
  CombineArgs args;
  args.op = CombineOp::guide;
  args.inputs = 2;
  args.params = 1;
  args.input[0] = uncond.input();
  args.input[1] = cond.input();
  args.param[0] = read_finite(reader, in[2], uncond);
  return finish_combine(args, uncond);
}

PyObject* euler_step(const Reader& reader, Arguments in) {
  const Tensor sample = read_first(reader, in[0]);
  const Tensor velocity = read_like(reader, in[1], sample, false);
  CombineArgs args;
  args.op = CombineOp::euler_step;
  args.inputs = 2;
  args.params = 2;
  args.input[0] = sample.input();
  args.input[1] = velocity.input();
  args.param[0] = read_sigma(reader, in[2], sample);
  args.param[1] = read_sigma(reader, in[3], sample);
  if (reader.caller() == Caller::user) {
    require(descending(args.param[0], args.param[1], sample.batch, sample.device));
  }
  const Param scale = read_finite(reader, in[5], sample);
  if (in[4] != Py_None) {
    args.op = CombineOp::guided_euler_step;
    args.inputs = 3;
    args.params = 3;
    args.input[2] = read_like(reader, in[4], sample, false).input();
    args.param[2] = scale;
  }
  return finish_combine(args, sample);
}

PyObject* add_noise(const Reader& reader, Arguments in) {
  const Tensor clean = read_first(reader, in[0]);
  const Tensor noise = read_like(reader, in[1], clean, false);
  CombineArgs args;
  args.op = CombineOp::add_noise;
  args.inputs = 2;
  args.params = 1;
  args.input[0] = clean.input();
  args.input[1] = noise.input();
  args.param[0] = read_sigma(reader, in[2], clean);
  return finish_combine(args, clean);
}

int read_length(PyObject* list) {
  require(PyList_Check(list) || PyTuple_Check(list));
  const Py_ssize_t length = PySequence_Fast_GET_SIZE(list);
  require(length >= 1 && length <= kMaxInputs);
  return static_cast<int>(length);
}

PyObject* blend(const Reader& reader, Arguments in) {
  CombineArgs args;
  args.op = CombineOp::blend;
  args.inputs = args.params = read_length(in[0]);
  PyObject** fields = PySequence_Fast_ITEMS(in[0]);
  const Tensor first = read_first(reader, fields[0]);
  args.input[0] = first.input();
  for (int k = 1; k < args.inputs; ++k) args.input[k] = read_like(reader, fields[k], first, true).input();

  if (PyList_Check(in[1]) || PyTuple_Check(in[1])) {
    require(read_length(in[1]) == args.inputs);
    for (int k = 0; k < args.inputs; ++k) {
      require(PyFloat_Check(PySequence_Fast_GET_ITEM(in[1], k)) ||
              PyLong_CheckExact(PySequence_Fast_GET_ITEM(in[1], k)));
      args.param[k] = read_finite(reader, PySequence_Fast_GET_ITEM(in[1], k), first);
    }
    return finish_combine(args, first);
  }
  const Tensor weights = reader.read(in[1]);  // [K] or [B, K]
  const bool per_sample = PyTuple_GET_SIZE(weights.shape.get()) == 2;
  require(PyTuple_GET_SIZE(weights.shape.get()) <= 2 && weights.device == first.device &&
          weights.dtype != DType::u8);
  require(per_sample ? weights.batch == first.batch && weights.per_sample == args.inputs
                     : weights.batch == args.inputs);
  for (int k = 0; k < args.inputs; ++k) {
    const char* column = static_cast<const char*>(weights.data) + k * bytes_of(weights.dtype);
    args.param[k] = {0.0, column, per_sample ? args.inputs : 0, weights.dtype};
    if (reader.caller() == Caller::user && first.device == kCpu) {
      require(all_in(args.param[k], per_sample ? first.batch : 1, -kHuge, kHuge));
    }
  }
  return finish_combine(args, first);
}

PyObject* route(const Reader& reader, Arguments in) {
  RouteArgs args;
  args.fields = read_length(in[0]);
  PyObject** fields = PySequence_Fast_ITEMS(in[0]);
  const Tensor first = read_first(reader, fields[0]);
  args.field[0] = first.data;
  for (int k = 1; k < args.fields; ++k) args.field[k] = read_like(reader, fields[k], first, true).data;
  const Tensor index = reader.read_index(in[1]);
  require(index.device == first.device && index.batch == first.batch &&
          PyTuple_GET_SIZE(index.shape.get()) == 1);
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
// (or None)
PyObject* velocity_mse(const Reader& reader, Arguments in) {
  const Tensor student = read_first(reader, in[0]);
  VelocityMSEArgs args = {};
  args.student = student.input();
  args.teacher = read_like(reader, in[1], student, false).input();
  if (in[2] != Py_None) args.uncond = read_like(reader, in[2], student, false).input();
  args.scale = read_finite(reader, in[3], student);
  args.weight = {1.0, nullptr, 1, DType::f64};
  if (in[4] != Py_None) args.weight = read_finite(reader, in[4], student);
  if (in[5] != Py_None) {
    require(reader.caller() == Caller::dispatcher);  // only Python works out how a mask is laid out
    const Tensor mask = reader.read(in[5]);
    require(mask.device == student.device && (student.dtype == DType::f64 || mask.dtype != DType::f64));
    args.mask = {mask.input(), PyLong_AsLongLong(in[6]), PyLong_AsLongLong(in[7]), PyLong_AsLongLong(in[8])};
    const int64_t most = (student.batch - 1) * args.mask.batch_stride + args.mask.period;
    require(args.mask.batch_stride >= 0 && args.mask.inner > 0 && args.mask.period > 0 &&
            most <= mask.elements());
  }
  args.gradient_scale = PyFloat_AsDouble(in[9]);
  require(PyErr_Occurred() == nullptr && std::isfinite(args.gradient_scale));
  args.batch = student.batch;
  args.per_sample = student.per_sample;

  const DType sum_dtype = student.dtype == DType::f64 ? DType::f64 : DType::f32;
  const Tensor loss = new_vector(student, student.batch, sum_dtype);
  const Tensor partials =
      new_vector(student, student.batch * blocks_per_sample(student.per_sample), sum_dtype);
  args.loss = loss.data;
  args.partials = partials.data;
  Tensor gradient;
  if (in[10] != Py_None) {
    gradient = new_like(student);
    args.gradient = gradient.data;
    args.gradient_dtype = gradient.dtype;
  }
  DANCEOPD_RUN(velocity_mse, args, student);
  return PyTuple_Pack(2, loss.object, args.gradient == nullptr ? Py_None : gradient.object);
}

// -- the calling convention -----------------------------------------------------------------------------

template <PyObject* (*call)(const Reader&, Arguments), int count>
PyObject* wrapped(PyObject*, Arguments in, Py_ssize_t n) {
  if (n != count + 1) {
    return PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", count + 1, n);
  }
  try {
    const Reader reader(in[0] == Py_True ? Caller::dispatcher : Caller::user);
    return call(reader, in + 1);
  } catch (const NotPlain&) {
    PyErr_Clear();
    Py_RETURN_NONE;
  } catch (pybind11::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <PyObject* (*call)(const Reader&, Arguments), int count>
constexpr PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&wrapped<call, count>)),
          METH_FASTCALL, nullptr};
}

}  // namespace

PyMethodDef kCalls[] = {
    method<guide, 3>("guide"),         method<euler_step, 6>("euler_step"),
    method<add_noise, 3>("add_noise"), method<blend, 2>("blend"),
    method<route, 2>("route"),         method<velocity_mse, 11>("velocity_mse"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace danceopd::python
