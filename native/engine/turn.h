// Taking turns, in a process that may fork.

#pragma once

#include <atomic>
#include <stdexcept>

namespace bhvit {

// A number that is another one in every process forked from this one.
unsigned process_generation();

// What is used was in use by another thread when the process forked. That thread does not exist here.
struct ForkedError : std::runtime_error {
  ForkedError();
};

// A mutex that a child process does not wait for if a thread of its parent held it.
class Turn {
 public:
  void lock();  // throws ForkedError
  void unlock();

 private:
  std::atomic<unsigned> holder_{0};  // 0 if free, or the generation of the process whose thread holds it
};

}  // namespace bhvit
