// How the memory of a large result is mapped.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace danceopd {

// Asks for huge pages where a result is so large that malloc maps it by itself. Such a result is fresh at
// every call and otherwise costs a page fault per 4 KB, which takes several times as long as the arithmetic
// that fills it. Smaller ones lie in malloc's heap among others, which would get huge pages too, at each
// growth of the heap. Only advice: nothing happens where the system has none to give.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  constexpr int64_t kLarge = 32 << 20;  // the most that glibc's threshold for mappings rises to
  if (bytes < kLarge) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace danceopd
