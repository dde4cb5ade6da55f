// The caller's floating-point settings change no bit, and stay as they were: `environment MODEL`.
//
// The model must work on subnormal floats. Each setting of the processor (rounding modes, flush-to-zero, their mixture)
// is set while a session is opened, while one runs with 1 and 3 threads, and while a picture is normalised, with every
// instruction set. Before that, arithmetic here must show that the setting is in force. Prints how many settings there
// are, none where a processor has no such modes; exit status 1 with a line on stderr tells what differs.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "api/bhvit.h"
#include "engine/dispatch.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

struct Setting {
  const char* name;
  uint64_t word;
  bool rounds, flushes;  // what it changes
};

#if defined(__SSE__)
constexpr uint64_t kUsual = 0x1f80, kFlags = 0x3f;
const std::vector<Setting> kSettings = {
    {"down", kUsual | 0x2000, true, false},        {"up", kUsual | 0x4000, true, false},
    {"toward zero", kUsual | 0x6000, true, false}, {"flush to zero", kUsual | 0x8000, false, true},
    {"all of them", kUsual | 0xe040, true, true},
};
uint64_t read() { return _mm_getcsr() & ~kFlags; }
void write(uint64_t word) { _mm_setcsr(static_cast<uint32_t>(word)); }
#elif defined(__aarch64__)
constexpr uint64_t kUsual = 0;
const std::vector<Setting> kSettings = {
    {"up", uint64_t{1} << 22, true, false},
    {"down", uint64_t{2} << 22, true, false},
    {"toward zero", uint64_t{3} << 22, true, false},
    {"flush to zero", uint64_t{1} << 24, false, true},
    {"all of them", uint64_t{13} << 22 | uint64_t{1} << 19, true, true},
};
uint64_t read() {
  uint64_t word;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
void write(uint64_t word) { asm volatile("msr fpcr, %0" : : "r"(word) : "memory"); }
#else
constexpr uint64_t kUsual = 0;
const std::vector<Setting> kSettings;
uint64_t read() { return kUsual; }
void write(uint64_t) {}
#endif

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what + " " + bhvit_error());
}

// This thread with a setting, then as usual again.
class With {
 public:
  explicit With(const Setting& setting) { write(setting.word); }
  ~With() { write(kUsual); }
};

// Volatile, so that the processor computes, not the compiler, and while the setting is in force.
uint32_t third() {
  volatile float one = 1.0f, three = -3.0f, below = one / three, above = one / -three;
  const float quotients[] = {below, above};
  uint32_t bits[2];
  std::memcpy(bits, quotients, sizeof bits);
  return bits[0] * 31 + bits[1];
}
float half_of_the_smallest_normal() {
  volatile float smallest = 1.17549435e-38f, half = 0.5f, product = smallest * half;
  return product;
}

struct Session {
  Session(const char* path, const std::string& isa, int threads) {
    require(bhvit_open_file(path, threads, isa.c_str(), &session) == BHVIT_OK, "it does not open:");
    require(bhvit_get_info(session, &info) == BHVIT_OK, "no info:");
  }
  ~Session() { bhvit_close(session); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bhvit_session* session = nullptr;
  bhvit_info info;
};

std::vector<float> images(const Session& session) {
  std::vector<float> values(2 * session.info.image_floats);
  for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i * 7919 % 1000) / 250.0f - 2.0f;
  return values;
}

std::vector<float> run(const Session& session, const std::vector<float>& input) {
  std::vector<float> logits(2 * session.info.classes);
  require(bhvit_run(session.session, 2, input.data(), input.size(), logits.data(), logits.size()) == BHVIT_OK,
          "no run:");
  return logits;
}

std::vector<float> normalise(const Session& session) {
  const bhvit_info& info = session.info;
  const size_t height = info.height + 3, width = info.width + 2;
  std::vector<uint8_t> pixels(height * width * info.channels);
  for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(i * 7919);
  std::vector<float> image(info.image_floats);
  require(bhvit_normalize(session.session, pixels.data(), pixels.size(), height, width, image.data(), image.size()) ==
              BHVIT_OK,
          "no normalisation:");
  return image;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

void check(const char* path, const std::string& isa, int threads) {
  const Session session(path, isa, threads);
  const std::vector<float> input = images(session), expected = run(session, input), image = normalise(session);
  for (const float logit : expected) require(logit != 0 && logit < 1e-37f && logit > -1e-37f, "logits not subnormal");
  const uint32_t usual_third = third();
  require(half_of_the_smallest_normal() != 0, "subnormal floats are flushed as usual");
  for (const Setting& setting : kSettings) {
    const std::string where = isa + ", " + std::to_string(threads) + " threads, " + setting.name + ": ";
    bool rounds, flushes, kept;
    std::vector<float> ran, normalised, opened;
    {
      const With with(setting);
      rounds = third() != usual_third;
      flushes = half_of_the_smallest_normal() == 0;
      ran = run(session, input);
      normalised = normalise(session);
      const Session other(path, isa, threads);
      opened = run(other, input);
      kept = read() == setting.word;
    }
    require(rounds == setting.rounds && flushes == setting.flushes, where + "the setting is not in force");
    require(kept, where + "the caller's setting is not as it was");
    require(same(ran, expected), where + "other logits");
    require(same(opened, expected), where + "other logits of a session opened with it");
    require(same(normalised, image), where + "another normalised picture");
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    if (count != 2) throw std::runtime_error("usage: environment MODEL");
    for (const std::string& isa : bhvit::available_isas()) {
      for (const int threads : {1, 3}) check(words[1], isa, threads);
    }
    std::printf("%zu\n", kSettings.size());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
