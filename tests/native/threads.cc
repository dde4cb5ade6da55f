// Sessions in several threads, for ThreadSanitizer (make check-slow): bhvit_threads MODEL.bhv
//
// Threads open and close sessions of one file, each with its own pool, and share one session besides. All must give the
// logits that a single thread gave, and errors must stay in the thread that made them.

#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "api/bhvit.h"

namespace {

constexpr int kThreads = 4, kRounds = 6;
std::atomic<int> faults{0};

void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fault: %s: %s\n", what, bhvit_error());
  faults++;
}

std::vector<float> run(bhvit_session* session) {
  bhvit_info info;
  expect(bhvit_get_info(session, &info) == BHVIT_OK, "info");
  std::vector<float> images(2 * info.image_floats), logits(2 * info.classes);
  for (size_t i = 0; i < images.size(); i++) images[i] = static_cast<float>(i * 7919 % 1000) / 250.0f - 2.0f;
  expect(bhvit_run(session, 2, images.data(), images.size(), logits.data(), logits.size()) == BHVIT_OK, "run");
  return logits;
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
  std::printf("%d faults\n", faults.load());
  return faults ? 1 : 0;
}
