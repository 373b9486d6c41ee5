// A small pool of sleeping threads. Nobody spins, so it does not compete with torch's own OpenMP threads.
#pragma once

#include <cstdint>

namespace danceopd {

using RangeFunction = void (*)(const void* arguments, int64_t begin, int64_t end);

// Calls f over [0, count), cut into at most `threads` even ranges, one of them on the calling thread. Nested
// or concurrent calls, and calls for which no thread can be started, run on the calling thread alone. Usable
// in a forked child: it starts threads of its own.
void parallel_for(int64_t count, int threads, RangeFunction f, const void* arguments);

}  // namespace danceopd
