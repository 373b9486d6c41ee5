// Torch tensors as the kernels need them: pointer, dtype code, device index, counts. Read through torch's
// exchange table or, before torch 2.10, through Python attributes; nothing of libtorch is included or linked,
// and one build serves every torch version.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

#include "core/arguments.h"

namespace danceopd::python {

// An owned reference.
class Ref {
 public:
  explicit Ref(PyObject* object = nullptr) : object_(object) {}
  Ref(Ref&& other) noexcept : object_(other.release()) {}
  Ref& operator=(Ref&& other) noexcept {
    if (this != &other) {
      Py_XDECREF(object_);
      object_ = other.release();
    }
    return *this;
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* object = object_;
    object_ = nullptr;
    return object;
  }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// Who calls. A user's call is served only when nothing but the kernel is wanted of it (no gradient, no
// dispatch mode, no function transform, no tangents); torch's dispatcher has dealt with those already.
enum class Caller { user, dispatcher };

// Whether a tensor of a user's call may require grad: only where the caller sees to the gradient itself.
enum class Gradient { refused, caller };

// Thrown for any argument the kernels do not take as it is; the caller then returns None, and Python, which
// finds the words for a wrong argument or converts it, takes over.
struct NotPlain {};

constexpr int kCpu = -1;

struct Tensor {
  PyObject* object = nullptr;  // borrowed; `owner` holds a tensor made here
  Ref owner;
  void* data = nullptr;
  DType dtype = DType::f32;
  int device = kCpu;
  int dimensions = 0;
  const int64_t* sizes = nullptr;
  std::vector<int64_t> own_sizes;  // where torch does not lend them
  int64_t batch = 0;               // size of the first dimension
  int64_t per_sample = 0;          // elements of one sample

  int64_t elements() const { return batch * per_sample; }
  Input input() const { return {data, dtype}; }
};

// Keeps the Python objects of torch that the calls below need; see danceopd/ops/_native.py for the names.
void bind_torch(PyObject* names);

// Reads the tensors of one call. All of its functions throw NotPlain.
class Reader {
 public:
  explicit Reader(Caller caller);  // also where the thread's state asks for more than the kernel, see Caller

  Caller caller() const { return caller_; }
  // A contiguous, non-empty tensor of plain type.
  Tensor read(PyObject* object, Gradient gradient = Gradient::refused) const;
  Tensor read_index(PyObject* object) const;  // the same, int64; its dtype is left unset

 private:
  Tensor read_any(PyObject* object, bool index, Gradient gradient) const;

  Caller caller_;
};

Tensor new_like(const Tensor& like);
Tensor new_vector(const Tensor& like, int64_t size, DType dtype);
Tensor new_scalar(const Tensor& like, DType dtype);  // without dimensions

// Tells autograd that the tensor was written to: what saved it for a backward pass then refuses to use it.
void count_write(PyObject* tensor);

bool same_shape(const Tensor& a, const Tensor& b);

int thread_count();                    // torch.get_num_threads()
uintptr_t current_stream(int device);  // of this thread, on that CUDA device

}  // namespace danceopd::python
