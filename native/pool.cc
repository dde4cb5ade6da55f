#include "pool.h"

#include <algorithm>

namespace bhvit {
namespace {

// A few microseconds: the next op of a running program comes sooner, and an idle program soon sleeps.
constexpr int kSpins = 4000;
// Ranges a thread should get, so that one that was interrupted does not hold up the others.
constexpr long kRangesPerThread = 6;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { worker_loop(i); });
  } catch (...) {
    stop_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(Task task) {
  task.ranges = std::min(task.ranges, threads() * kRangesPerThread);
  task_ = task;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  for (int left = busy_.load(std::memory_order_acquire); left; left = busy_.load(std::memory_order_acquire)) {
    wait_while_equal(busy_, left);
  }
}

void ThreadPool::work(int thread) {
  for (;;) {
    const long range = next_.fetch_add(1, std::memory_order_relaxed);
    if (range >= task_.ranges) return;
    task_.call(task_.context, task_.count * range / task_.ranges, task_.count * (range + 1) / task_.ranges, thread);
  }
}

void ThreadPool::worker_loop(int thread) {
  unsigned seen = 0;
  for (;;) {
    wait_while_equal(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    work(thread);
    if (busy_.fetch_sub(1, std::memory_order_release) == 1) busy_.notify_all();
  }
}

}  // namespace bhvit
