// Torch's own description of a tensor in one C call: the exchange table of the DLPack standard (1.3), which
// torch has from 2.10 on. The declarations are the standard's binary interface, so nothing of torch is
// included.
#pragma once

#include <Python.h>

#include <cstdint>

namespace danceopd::python {

enum : int32_t { kDeviceCpu = 1, kDeviceCuda = 2 };
enum : uint8_t { kCodeInt = 0, kCodeFloat = 2, kCodeBfloat = 4, kCodeBool = 6 };

// Borrowed from the tensor.
struct Description {
  void* data;
  int32_t device_type, device_index;
  int32_t dimensions;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t* sizes;
  const int64_t* strides;
  uint64_t byte_offset;
};

// Finds the table in the capsule that torch.Tensor carries; None where torch has none.
void bind_exchange(PyObject* capsule);

bool exchange_bound();

// False, without a Python error, for a tensor that has no such description (sparse, without storage).
bool describe(PyObject* tensor, Description& description);

}  // namespace danceopd::python
