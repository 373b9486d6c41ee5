// How the memory of a large result is mapped.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace danceopd {

// Asks for huge pages where a result holds one at least. A fresh result of many megabytes otherwise costs a
// page fault per 4 KB, which takes several times as long as the arithmetic that fills it. Only advice:
// nothing happens where the system has none to give, or they are there already.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  constexpr int64_t kLarge = 4 << 20;  // two of the usual size, so that one is whole wherever it begins
  if (bytes < kLarge) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace danceopd
