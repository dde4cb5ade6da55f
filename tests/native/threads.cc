// Sessions in several threads, for ThreadSanitizer (make check-slow): bhvit_threads MODEL.bhv
//
// Threads open and close sessions of one file, each with its own pool, and share one session besides. All must give the
// logits that a single thread gave, and errors must stay in the thread that made them. A session that its owner gives up
// while others run it is closed by the last of them. Then the process forks, idle and while a thread runs the shared
// session: a child opens its own, and the shared one answers or is refused, never waits. ThreadSanitizer needs
// TSAN_OPTIONS=die_after_fork=0 for that.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/bhvit.h"

namespace {

#if defined(__SANITIZE_THREAD__)
#define BHVIT_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BHVIT_THREAD_SANITIZER
#endif
#endif

constexpr int kThreads = 4, kRounds = 6;
// ThreadSanitizer cannot follow threads that a child of a threaded process starts.
#if defined(BHVIT_THREAD_SANITIZER)
constexpr int kForkThreads = 1;
#else
constexpr int kForkThreads = 2;
#endif
std::atomic<int> faults{0};

void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fault: %s: %s\n", what, bhvit_error());
  faults++;
}

// Logits of an image, or of each of its pixels.
size_t logit_floats(const bhvit_session* session, const bhvit_info& info) {
  return info.classes * (std::string_view(bhvit_task(session)) == "segment" ? info.height * info.width : 1);
}

std::vector<float> run(bhvit_session* session) {
  bhvit_info info;
  expect(bhvit_get_info(session, &info) == BHVIT_OK, "info");
  std::vector<float> images(2 * info.image_floats), logits(2 * logit_floats(session, info));
  for (size_t i = 0; i < images.size(); i++) images[i] = static_cast<float>(i * 7919 % 1000) / 250.0f - 2.0f;
  expect(bhvit_run(session, 2, images.data(), images.size(), logits.data(), logits.size()) == BHVIT_OK, "run");
  return logits;
}

// Forks; whether the child's own session answers, and the shared one too or, if it `may_be_busy`, is refused.
bool child_is_right(const char* path, bhvit_session* shared, const std::vector<float>& expected, bool may_be_busy) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that waits for ever ends by this signal
    bhvit_session* own = nullptr;
    bool right = bhvit_open_file(path, kForkThreads, nullptr, &own) == BHVIT_OK && run(own) == expected;
    bhvit_close(own);
    bhvit_info info;
    bhvit_get_info(shared, &info);
    std::vector<float> images(info.image_floats), logits(logit_floats(shared, info));
    const bhvit_status status = bhvit_run(shared, 1, images.data(), images.size(), logits.data(), logits.size());
    right = right && (status == BHVIT_OK ||
                      (may_be_busy && status == BHVIT_SYSTEM && std::strstr(bhvit_error(), "when the process forked")));
    if (right && status == BHVIT_OK) right = run(shared) == expected;
    bhvit_close(shared);
    _exit(right && !faults ? 0 : 1);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Threads run a session while the thread that opened it gives it up: the last one closes it.
void close_while_running(const char* path, const std::vector<float>& expected) {
  for (int round = 0; round < kRounds; round++) {
    bhvit_session* opened = nullptr;
    expect(bhvit_open_file(path, 1 + round % 3, nullptr, &opened) == BHVIT_OK, "open");
    auto owned = std::shared_ptr<bhvit_session>(opened, bhvit_close);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++) {
      threads.emplace_back(
          [session = owned, &expected] { expect(run(session.get()) == expected, "logits of the last"); });
    }
    owned.reset();
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) return 2;
  const char* path = words[1];
  bhvit_session* shared = nullptr;
  if (bhvit_open_file(path, 2, nullptr, &shared) != BHVIT_OK) {
    std::fprintf(stderr, "%s\n", bhvit_error());
    return 2;
  }
  const std::vector<float> expected = run(shared);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      expect(!*bhvit_error(), "a new thread has an error");
      for (int round = 0; round < kRounds; round++) {
        bhvit_session* own = nullptr;
        expect(bhvit_open_file(path, 1 + (t + round) % 3, round % 2 ? "scalar" : nullptr, &own) == BHVIT_OK, "open");
        expect(run(own) == expected, "logits of an own session");
        expect(run(shared) == expected, "logits of the shared session");
        bhvit_close(own);
        const std::string absent = "/absent/" + std::to_string(t);
        expect(bhvit_open_file(absent.c_str(), 1, nullptr, &own) == BHVIT_FILE && !own, "an absent file");
        expect(std::strstr(bhvit_error(), absent.c_str()) != nullptr, "the error of another thread");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  bhvit_close(shared);
  close_while_running(path, expected);
  expect(bhvit_open_file(path, kForkThreads, nullptr, &shared) == BHVIT_OK, "open");
  expect(run(shared) == expected, "logits of another session");
  for (int round = 0; round < kRounds; round++) {
    expect(child_is_right(path, shared, expected, false), "a child of an idle process");
    expect(run(shared) == expected, "logits after a fork");
  }
  std::atomic<bool> stop{false};
  std::thread runner([&] {
    while (!stop) expect(run(shared) == expected, "logits while the process forks");
  });
  for (int round = 0; round < kRounds; round++) {
    expect(child_is_right(path, shared, expected, true), "a child of a running process");
  }
  stop = true;
  runner.join();
  bhvit_close(shared);
  std::printf("%d faults\n", faults.load());
  return faults ? 1 : 0;
}
