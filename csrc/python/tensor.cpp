#include "python/tensor.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/dtype.h"
#include "cpu/pages.h"
#include "cuda/launch.h"
#include "python/exchange.h"

namespace danceopd::python {
namespace {

constexpr int kDTypes = 5;

// Torch's own objects; owned for the life of the process. What is asked of every tensor goes through the
// descriptors of its class, as plain types cannot have overridden them: half the price of a look-up by name.
struct Torch {
  PyObject *tensor, *parameter;
  PyObject* dtype[kDTypes];
  PyObject* int64;
  PyObject *get_dtype, *get_shape, *get_is_cpu, *get_is_cuda, *get_requires_grad;  // properties
  PyObject *is_contiguous, *is_neg, *data_ptr, *get_device, *new_empty;            // methods
  PyObject *untyped_storage, *storage_bytes, *storage_offset;
  PyObject *increment_version, *empty_like, *is_grad_enabled, *num_threads, *raw_stream;
  PyObject *dispatch_modes, *function_transform, *tracing_state;
  PyObject *forward_ad, *s_current_level;  // the names of a module, and the one that is read
  PyObject* kw_dtype;
};

Torch torch = {};

PyObject* kept(PyObject* names, const char* name) {
  PyObject* object = PyDict_GetItemString(names, name);
  if (object == nullptr) throw pybind11::key_error(name);
  Py_INCREF(object);
  return object;
}

Ref checked(PyObject* result) {
  if (result == nullptr) throw pybind11::error_already_set();
  return Ref(result);
}

PyObject* descriptor(const char* name) {
  PyObject* found = PyObject_GetAttrString(torch.tensor, name);
  if (found == nullptr) throw pybind11::error_already_set();
  return found;
}

PyObject* property(const char* name) {
  PyObject* found = descriptor(name);
  if (Py_TYPE(found)->tp_descr_get == nullptr) {
    throw std::runtime_error(std::string("torch.Tensor.") + name + " is no property.");
  }
  return found;
}

// For questions put to a tensor: one that cannot answer (sparse, without storage) is not plain.
Ref answered(PyObject* result) {
  if (result == nullptr) {
    PyErr_Clear();
    throw NotPlain();
  }
  return Ref(result);
}

Ref get(PyObject* object, PyObject* property) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  return answered(Py_TYPE(property)->tp_descr_get(property, object, type));
}

bool is_true(PyObject* object, PyObject* property) {
  return get(object, property).get() == Py_True;
}

// The object is of the method's class. A method without arguments is called as the interpreter would in the
// end.
Ref ask(PyObject* object, PyObject* method) {
  if (Py_TYPE(method) == &PyMethodDescr_Type) {
    const PyMethodDef* definition = reinterpret_cast<PyMethodDescrObject*>(method)->d_method;
    if (definition->ml_flags == METH_NOARGS) return answered(definition->ml_meth(object, nullptr));
  }
  return answered(PyObject_CallOneArg(method, object));
}

void require_plain_type(PyObject* object) {
  const PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != torch.tensor && type != torch.parameter) throw NotPlain();
}

#if defined(DANCEOPD_CUDA_BUILT)
int usable_cuda(int device) {
  if (!cuda::usable(device)) throw NotPlain();
  return device;
}
#endif

void count_elements(Tensor& t) {
  if (t.dimensions == 0) throw NotPlain();
  t.batch = t.sizes[0];
  t.per_sample = 1;
  for (int i = 1; i < t.dimensions; ++i) t.per_sample *= t.sizes[i];
  if (t.batch <= 0 || t.per_sample <= 0) throw NotPlain();
}

// -- by the exchange table --

DType dtype_of(const Description& d) {
  if (d.lanes == 1 && d.code == kCodeFloat && d.bits == 32) return DType::f32;
  if (d.lanes == 1 && d.code == kCodeBfloat && d.bits == 16) return DType::bf16;
  if (d.lanes == 1 && d.code == kCodeFloat && d.bits == 16) return DType::f16;
  if (d.lanes == 1 && d.code == kCodeFloat && d.bits == 64) return DType::f64;
  if (d.lanes == 1 && d.code == kCodeBool) return DType::u8;
  throw NotPlain();
}

int device_of(const Description& d) {
  if (d.device_type == kDeviceCpu) return kCpu;
#if defined(DANCEOPD_CUDA_BUILT)
  if (d.device_type == kDeviceCuda) return usable_cuda(d.device_index);
#endif
  throw NotPlain();
}

bool is_contiguous(const Description& d) {
  int64_t expected = 1;
  for (int i = d.dimensions - 1; i >= 0; --i) {
    if (d.sizes[i] != 1 && d.strides[i] != expected) return false;
    expected *= d.sizes[i];
  }
  return true;
}

void read_by_table(Tensor& t, bool index) {
  Description d;
  if (!describe(t.object, d)) throw NotPlain();
  if (index) {
    if (d.code != kCodeInt || d.bits != 64 || d.lanes != 1) throw NotPlain();
  } else {
    t.dtype = dtype_of(d);
  }
  t.device = device_of(d);
  if (!is_contiguous(d)) throw NotPlain();
  t.data = d.data == nullptr ? nullptr : static_cast<char*>(d.data) + d.byte_offset;
  t.dimensions = d.dimensions;
  t.sizes = d.sizes;
}

// -- by attributes --

DType dtype_of(PyObject* dtype) {
  for (int i = 0; i < kDTypes; ++i) {
    if (dtype == torch.dtype[i]) return static_cast<DType>(i);
  }
  throw NotPlain();
}

int device_of(PyObject* object) {
  if (is_true(object, torch.get_is_cpu)) return kCpu;
#if defined(DANCEOPD_CUDA_BUILT)
  if (is_true(object, torch.get_is_cuda)) {
    return usable_cuda(static_cast<int>(PyLong_AsLong(ask(object, torch.get_device).get())));
  }
#endif
  throw NotPlain();
}

void read_by_attributes(Tensor& t, bool index) {
  const Ref dtype = get(t.object, torch.get_dtype);
  if (index) {
    if (dtype.get() != torch.int64) throw NotPlain();
  } else {
    t.dtype = dtype_of(dtype.get());
  }
  t.device = device_of(t.object);
  if (ask(t.object, torch.is_contiguous).get() != Py_True) throw NotPlain();
  t.data = PyLong_AsVoidPtr(ask(t.object, torch.data_ptr).get());
  const Ref shape = get(t.object, torch.get_shape);
  t.dimensions = static_cast<int>(PyTuple_GET_SIZE(shape.get()));
  for (int i = 0; i < t.dimensions; ++i) {
    t.own_sizes.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(shape.get(), i)));
  }
  if (PyErr_Occurred() != nullptr) throw NotPlain();  // a size that is not known
  t.sizes = t.own_sizes.data();
}

}  // namespace

void bind_torch(PyObject* names) {
  torch.tensor = kept(names, "Tensor");
  torch.parameter = kept(names, "Parameter");
  const char* dtypes[kDTypes] = {"float32", "bfloat16", "float16", "float64", "bool"};
  for (int i = 0; i < kDTypes; ++i) torch.dtype[i] = kept(names, dtypes[i]);
  torch.int64 = kept(names, "int64");
  torch.empty_like = kept(names, "empty_like");
  torch.increment_version = kept(names, "increment_version");
  torch.is_grad_enabled = kept(names, "is_grad_enabled");
  torch.dispatch_modes = kept(names, "dispatch_modes");
  torch.function_transform = kept(names, "function_transform");
  torch.tracing_state = kept(names, "tracing_state");
  torch.num_threads = kept(names, "get_num_threads");
  torch.raw_stream = kept(names, "raw_stream");
  torch.get_dtype = property("dtype");
  torch.get_shape = property("shape");
  torch.get_is_cpu = property("is_cpu");
  torch.get_is_cuda = property("is_cuda");
  torch.get_requires_grad = property("requires_grad");
  torch.is_contiguous = descriptor("is_contiguous");
  torch.is_neg = descriptor("is_neg");
  torch.data_ptr = descriptor("data_ptr");
  torch.untyped_storage = descriptor("untyped_storage");
  torch.storage_bytes = kept(names, "storage_bytes");
  torch.storage_offset = descriptor("storage_offset");
  torch.get_device = descriptor("get_device");
  torch.new_empty = descriptor("new_empty");
  bind_exchange(kept(names, "exchange"));
  torch.forward_ad = kept(names, "forward_ad");
  torch.s_current_level = PyUnicode_InternFromString("_current_level");
  torch.kw_dtype = Py_BuildValue("(s)", "dtype");
}

Reader::Reader(Caller caller) : caller_(caller) {
  if (torch.tensor == nullptr) throw NotPlain();
  if (caller == Caller::dispatcher) return;
  const Ref modes = checked(PyObject_CallNoArgs(torch.dispatch_modes));
  if (PyLong_AsLong(modes.get()) != 0) throw NotPlain();
  if (checked(PyObject_CallNoArgs(torch.function_transform)).get() != Py_None) throw NotPlain();
  // torch.jit.trace records what the dispatcher sees, and would keep only that a result was allocated.
  if (checked(PyObject_CallNoArgs(torch.tracing_state)).get() != Py_None) throw NotPlain();
  // Any tensor may carry a tangent while a level of forward-mode differentiation is open.
  PyObject* level = PyDict_GetItemWithError(torch.forward_ad, torch.s_current_level);
  if (level == nullptr || PyLong_AsLong(level) >= 0) throw NotPlain();
}

namespace {

// Whether the storage holds the elements: it may have been freed (as FSDP does) or shrunk since. Where it is
// as large as they are, as it mostly is, the offset is zero and need not be asked for.
bool holds(const Tensor& t, int64_t element_size) {
  const Ref storage = ask(t.object, torch.untyped_storage);
  const int64_t held = PyLong_AsLongLong(ask(storage.get(), torch.storage_bytes).get());
  const int64_t wanted = t.elements() * element_size;
  if (held == wanted) return true;
  if (held < wanted) return false;
  const int64_t offset = PyLong_AsLongLong(ask(t.object, torch.storage_offset).get());
  return offset * element_size <= held - wanted;
}

}  // namespace

Tensor Reader::read_any(PyObject* object, bool index, Gradient gradient) const {
  require_plain_type(object);
  Tensor t;
  t.object = object;
  if (caller_ == Caller::user) {
    if (gradient == Gradient::refused && is_true(object, torch.get_requires_grad) &&
        checked(PyObject_CallNoArgs(torch.is_grad_enabled)).get() == Py_True) {
      throw NotPlain();
    }
    if (ask(object, torch.is_neg).get() != Py_False) throw NotPlain();  // negated lazily, by the dispatcher
  }
  exchange_bound() ? read_by_table(t, index) : read_by_attributes(t, index);
  count_elements(t);
  if (t.data == nullptr || !holds(t, index ? 8 : bytes_of(t.dtype))) throw NotPlain();
  return t;
}

Tensor Reader::read(PyObject* object, Gradient gradient) const {
  return read_any(object, false, gradient);
}

Tensor Reader::read_index(PyObject* object) const {
  return read_any(object, true, Gradient::refused);
}

namespace {

Tensor made(PyObject* result, const Tensor& like, DType dtype) {
  Tensor t;
  t.owner = checked(result);
  t.object = t.owner.get();
  t.dtype = dtype;
  t.device = like.device;
  Description d;
  t.data = exchange_bound() && describe(t.object, d)
               ? static_cast<char*>(d.data) + d.byte_offset
               : PyLong_AsVoidPtr(checked(PyObject_CallOneArg(torch.data_ptr, t.object)).get());
  if (t.data == nullptr) throw NotPlain();  // a mode made it somewhere else
  return t;
}

}  // namespace

Tensor new_like(const Tensor& like) {
  Tensor t = made(PyObject_CallOneArg(torch.empty_like, like.object), like, like.dtype);
  if (t.device == kCpu) prefer_huge_pages(t.data, like.elements() * bytes_of(like.dtype));
  return t;
}

namespace {

Tensor new_of_shape(const Tensor& like, const Ref& shape, DType dtype) {
  PyObject* arguments[] = {like.object, shape.get(), torch.dtype[static_cast<int>(dtype)]};
  return made(PyObject_Vectorcall(torch.new_empty, arguments, 2, torch.kw_dtype), like, dtype);
}

}  // namespace

Tensor new_vector(const Tensor& like, int64_t size, DType dtype) {
  return new_of_shape(like, checked(Py_BuildValue("(L)", static_cast<long long>(size))), dtype);
}

Tensor new_scalar(const Tensor& like, DType dtype) {
  return new_of_shape(like, checked(PyTuple_New(0)), dtype);
}

void count_write(PyObject* tensor) {
  checked(PyObject_CallOneArg(torch.increment_version, tensor));
}

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.dimensions == b.dimensions && std::equal(a.sizes, a.sizes + a.dimensions, b.sizes);
}

int thread_count() {
  return static_cast<int>(PyLong_AsLong(checked(PyObject_CallNoArgs(torch.num_threads)).get()));
}

uintptr_t current_stream(int device) {
  const Ref index = checked(PyLong_FromLong(device));
  const Ref stream = checked(PyObject_CallOneArg(torch.raw_stream, index.get()));
  return reinterpret_cast<uintptr_t>(PyLong_AsVoidPtr(stream.get()));
}

}  // namespace danceopd::python
