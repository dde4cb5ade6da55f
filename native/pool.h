// A small pool of threads for one program: loops cut into ranges, nothing else.

#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace bhvit {

class ThreadPool {
 public:
  // `threads` includes the caller of `run`; so many less one are started, and stay until destruction.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, thread) until [0, count) is covered, in equal ranges of about `grain` items or
  // more; thread < threads() tells whose scratch to use. `body` must not throw. One caller at a time.
  template <class Body>
  void run(long count, long grain, const Body& body) {
    if (workers_.empty() || count <= grain) {
      body(0L, count, 0);
      return;
    }
    start({[](const void* context, long begin, long end, int thread) {
             (*static_cast<const Body*>(context))(begin, end, thread);
           },
           &body, count, (count + grain - 1) / grain});
  }

 private:
  struct Task {
    void (*call)(const void*, long, long, int) = nullptr;
    const void* context = nullptr;
    long count = 0, ranges = 1;
  };

  void start(Task task);
  void work(int thread);
  void worker_loop(int thread);

  std::vector<std::thread> workers_;
  Task task_;
  std::atomic<unsigned> epoch_{0};   // counts tasks; a change wakes the workers
  std::atomic<int> busy_{0};         // workers that have not finished the current task
  std::atomic<long> next_{0};        // first range that nobody took
  std::atomic<bool> stop_{false};
};

}  // namespace bhvit
