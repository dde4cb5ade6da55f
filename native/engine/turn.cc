#include "engine/turn.h"

#if defined(__unix__) || (defined(__APPLE__) && defined(__MACH__))
#if !defined(__EMSCRIPTEN__) && !defined(__wasi__)
#define BHVIT_FORK
#include <pthread.h>
#endif
#endif

namespace bhvit {
namespace {

std::atomic<unsigned> generation{1};

#if defined(BHVIT_FORK)
[[maybe_unused]] const int kRegistered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
#endif

}  // namespace

unsigned process_generation() { return generation.load(std::memory_order_relaxed); }

ForkedError::ForkedError()
    : std::runtime_error("this session was running in another thread when the process forked; open one in the child") {}

void Turn::lock() {
  const unsigned mine = process_generation();
  for (;;) {
    unsigned holder = 0;
    if (holder_.compare_exchange_strong(holder, mine, std::memory_order_acquire, std::memory_order_acquire)) return;
    if (holder != mine) throw ForkedError();
    holder_.wait(holder, std::memory_order_acquire);
  }
}

void Turn::unlock() {
  holder_.store(0, std::memory_order_release);
  holder_.notify_one();
}

}  // namespace bhvit
