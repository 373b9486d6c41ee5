#include "python/exchange.h"

namespace danceopd::python {
namespace {

struct Table {
  uint32_t major, minor;
  const Table* older;
  void* allocate;
  void* export_owned;
  void* import_owned;
  int (*describe)(void* object, Description* out);
  void* current_stream;
};

const Table* table = nullptr;

}  // namespace

void bind_exchange(PyObject* capsule) {
  table = nullptr;
  if (capsule == Py_None) return;
  const void* found = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (found == nullptr) PyErr_Clear();
  for (const Table* t = static_cast<const Table*>(found); t != nullptr; t = t->older) {
    if (t->major == 1 && t->describe != nullptr) {
      table = t;
      return;
    }
  }
}

bool exchange_bound() {
  return table != nullptr;
}

bool describe(PyObject* tensor, Description& description) {
  if (table->describe(tensor, &description) == 0) return true;
  PyErr_Clear();
  return false;
}

}  // namespace danceopd::python
