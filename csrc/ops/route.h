// route: hard selection, sample b takes the field index[b]; a field nobody asks for is not read.
#pragma once

#include "core/arguments.h"
#include "core/portable.h"

namespace danceopd {
inline namespace DANCEOPD_UNIT {

struct Route {
  // Where sample b is read from; nullptr for an index out of range, which fills the sample with NaN. A
  // device-side index cannot be checked without a synchronisation, and NaN is seen sooner than a wrong field.
  DANCEOPD_HD static const char* source(const RouteArgs& a, int64_t b, int64_t sample_bytes) {
    const int64_t k = a.index[b];
    return k < 0 || k >= a.fields ? nullptr : static_cast<const char*>(a.field[k]) + b * sample_bytes;
  }

  // Eight bytes of quiet NaNs of this dtype.
  DANCEOPD_HD static uint64_t nan_bits(DType t) {
    switch (t) {
      case DType::f32:
        return 0x7fc000007fc00000u;
      case DType::bf16:
        return 0x7fc07fc07fc07fc0u;
      case DType::f16:
        return 0x7e007e007e007e00u;
      default:
        return 0x7ff8000000000000u;
    }
  }
};

}  // namespace DANCEOPD_UNIT
}  // namespace danceopd
