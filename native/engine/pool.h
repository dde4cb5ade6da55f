// A small pool of threads for one program: loops cut into ranges, nothing else.

#pragma once

#include <atomic>
#include <memory>
#include <vector>

#if !defined(BHVIT_WEB)
#include <thread>
#endif

namespace bhvit {

class ThreadPool {
 public:
  // Starts `threads - 1` workers, which stay until destruction; the caller of `run` is the other one.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // After a fork, a child has none of its parent's threads: starts others. Call it before `run`.
  void restart_after_fork();

  int threads() const { return static_cast<int>(shares_.size()); }

  // What worker `thread`, 1 to threads() - 1, does until destruction. In WebAssembly, JavaScript starts the workers; what none
  // takes, because it has not started yet or cannot, the caller of `run` does.
  void worker_loop(int thread);

  // Calls body(begin, end, thread) until [0, count) is covered, in equal ranges of about `grain` items or
  // more; thread < threads() tells whose scratch to use. `body` must not throw. One caller at a time.
  // Thread t starts with the t-th share of the items, so that from op to op it meets what lies in its own
  // core's cache, and helps the others when it is done.
  template <class Body>
  void run(long count, long grain, const Body& body) {
    if (threads() == 1 || count <= grain) {
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

  struct alignas(64) Share {
    std::atomic<long> next{0};  // first range that nobody took
    long end = 0;
  };

  // state_: kOpen while ranges are handed out, the workers that joined times kWorker, and above them a
  // counter of tasks. Only workers that joined are waited for: one whose core is busy elsewhere wakes to a
  // closed task and costs nothing.
  static constexpr unsigned kOpen = 1, kWorker = 2, kTask = 1u << 12;

  void start(const Task& task);
  void work(int thread);
  void work_share(Share& share, int thread);
  bool join(unsigned& seen);
  void start_workers();
  void stop_workers();

#if !defined(BHVIT_WEB)
  std::unique_ptr<std::vector<std::thread>> workers_;
  unsigned generation_;  // of the process that has the workers
#endif
  Task task_;  // written by `start` only while the task is closed and nobody joined
  std::atomic<unsigned> state_{0};
  std::vector<Share> shares_;  // one a thread
  std::atomic<bool> stop_{false};
};

}  // namespace bhvit
