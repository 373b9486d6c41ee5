// Reading the arguments of one call. Everything throws NotPlain for what the kernels do not take as it is.
#pragma once

#include "python/tensor.h"

namespace danceopd::python {

using Arguments = PyObject* const*;

inline void require(bool plain) {
  if (!plain) throw NotPlain();
}

// The tensor that decides shape, dtype and device of the result.
Tensor read_first(const Reader& reader, PyObject* object, Gradient gradient = Gradient::refused);
Tensor read_like(const Reader& reader, PyObject* object, const Tensor& like, bool same_dtype);

// A tensor to write the result of a call to. It may be one of the inputs, element for element, and shares no
// memory with anything else that the call reads.
Tensor read_out(const Reader& reader, PyObject* object, const Tensor& like, const CombineArgs& args);

// A number, or a [B] tensor beside the samples. Only values the host can see are checked: reading a CUDA
// tensor would wait for the device.
Param read_sigma(const Reader& reader, PyObject* object, const Tensor& like);   // in [0, 1]
Param read_finite(const Reader& reader, PyObject* object, const Tensor& like);  // any finite value
Param read_std(const Reader& reader, PyObject* object, const Tensor& like);     // at least kSmallestStd
double read_number(PyObject* object);                                           // a finite float or int
Param read_scale(const Reader& reader, PyObject* object, const Tensor& like);  // one for all: a float, or [1]
Seed read_seed(const Reader& reader, PyObject* object, const Tensor& like);    // an int, or int64 [B]

// high >= low for every sample, as far as the host sees.
void require_descending(const Reader& reader, const Param& high, const Param& low, const Tensor& like);
// What a step of second order asks of the step before: it moved, unless this one does not move either.
void require_moved(const Reader& reader, const Param& before, const Param& now, const Param& then,
                   const Tensor& like);

// Weight k of a blend of `count` fields, from a tensor [count] or [B, count].
Param weight_of_field(const Reader& reader, const Tensor& weights, const Tensor& like, int count, int k);

int read_length(PyObject* list);  // of a list or tuple, 1 .. kMaxInputs
// Its entries as a tuple, which keeps them: another thread may change a list while the kernel runs.
Ref read_fields(PyObject* list);

}  // namespace danceopd::python
