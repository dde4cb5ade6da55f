#include "engine/pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine/float_environment.h"
#include "engine/turn.h"

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

#if defined(BHVIT_WEB_THREADS)
// The C++ library of a build without threads has no such waits.
void wait(std::atomic<unsigned>& value, unsigned old) {
  __builtin_wasm_memory_atomic_wait32(reinterpret_cast<int*>(&value), static_cast<int>(old), -1);
}

void wake_all(std::atomic<unsigned>& value) {
  __builtin_wasm_memory_atomic_notify(reinterpret_cast<int*>(&value), ~0u);
}
#elif defined(BHVIT_WEB)
void wait(std::atomic<unsigned>&, unsigned) {}
void wake_all(std::atomic<unsigned>&) {}
#else
void wait(std::atomic<unsigned>& value, unsigned old) { value.wait(old, std::memory_order_acquire); }
void wake_all(std::atomic<unsigned>& value) { value.notify_all(); }
#endif

void wait_while_equal(std::atomic<unsigned>& value, unsigned old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  while (value.load(std::memory_order_acquire) == old) wait(value, old);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(static_cast<size_t>(threads)) {
#if defined(__EMSCRIPTEN__) && !defined(__EMSCRIPTEN_PTHREADS__) && !defined(BHVIT_WEB_THREADS)
  // Starting one would fail as if threads were to be had another time.
  if (threads > 1) {
    throw std::invalid_argument("threads must be 1 in WebAssembly built without -pthread, not " +
                                std::to_string(threads));
  }
#endif
  start_workers();
}

#if defined(BHVIT_WEB)
void ThreadPool::start_workers() {}
void ThreadPool::restart_after_fork() {}
void ThreadPool::stop_workers() {}
ThreadPool::~ThreadPool() = default;
#else
void ThreadPool::start_workers() {
  workers_ = std::make_unique<std::vector<std::thread>>();
  generation_ = process_generation();
  try {
    for (int i = 1; i < threads(); i++) workers_->emplace_back([this, i] { worker_loop(i); });
  } catch (...) {
    stop_workers();
    stop_.store(false, std::memory_order_relaxed);
    throw;
  }
}

void ThreadPool::restart_after_fork() {
  if (generation_ == process_generation()) return;
  stop_workers();
  start_workers();
}

ThreadPool::~ThreadPool() { stop_workers(); }

void ThreadPool::stop_workers() {
  if (generation_ != process_generation()) {
    // They exist in the parent only. What names them can be neither joined nor destroyed here, so it is left behind.
    (void)workers_.release();
    return;
  }
  stop_.store(true, std::memory_order_relaxed);
  state_.fetch_add(kTask, std::memory_order_release);
  wake_all(state_);
  for (std::thread& worker : *workers_) worker.join();
  workers_->clear();
}
#endif

void ThreadPool::start(const Task& task) {
  task_ = task;
  task_.ranges = std::min(task.ranges, threads() * kRangesPerThread);
  long begin = 0;
  for (long t = 0; t < threads(); t++) {
    Share& share = shares_[static_cast<size_t>(t)];
    share.next.store(begin, std::memory_order_relaxed);
    share.end = begin = task_.ranges * (t + 1) / threads();
  }
  state_.fetch_add(kTask + kOpen, std::memory_order_release);
  wake_all(state_);
  work(0);
  unsigned state = state_.fetch_sub(kOpen, std::memory_order_acq_rel) - kOpen;
  while (state % kTask) {
    wait_while_equal(state_, state);
    state = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work(int thread) {
  for (int i = 0; i < threads(); i++) work_share(shares_[static_cast<size_t>((thread + i) % threads())], thread);
}

void ThreadPool::work_share(Share& share, int thread) {
  for (;;) {
    const long range = share.next.fetch_add(1, std::memory_order_relaxed);
    if (range >= share.end) return;
    task_.call(task_.context, task_.count * range / task_.ranges, task_.count * (range + 1) / task_.ranges, thread);
  }
}

// Takes part in the open task if there is one of which `seen` does not know yet.
bool ThreadPool::join(unsigned& seen) {
  unsigned state = state_.load(std::memory_order_acquire);
  while (state & kOpen && state / kTask != seen) {
    if (state_.compare_exchange_weak(state, state + kWorker, std::memory_order_acq_rel, std::memory_order_acquire)) {
      seen = state / kTask;
      return true;
    }
  }
  return false;
}

void ThreadPool::worker_loop(int thread) {
  const FloatEnvironment defaults;
  unsigned seen = 0;
  for (;;) {
    const unsigned state = state_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (join(seen)) {
      work(thread);
      // Only the last to leave a closed task is waited for.
      if (state_.fetch_sub(kWorker, std::memory_order_acq_rel) % kTask == kWorker) wake_all(state_);
    } else {
      wait_while_equal(state_, state);
    }
  }
}

}  // namespace bhvit
