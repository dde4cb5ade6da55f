#include "api/testing.h"

#include <algorithm>
#include <chrono>

#include "engine/dispatch.h"
#include "format/memory.h"

namespace bhvit {
namespace {

std::vector<int32_t> count(decltype(KernelTable::count_xor) kernel, const uint32_t* activations, long tokens,
                           long words, const uint32_t* weight, long tiles) {
  Arena arena;
  uint32_t* aligned = arena.take<uint32_t>(static_cast<size_t>(tiles * words * kLanes));
  std::copy_n(weight, tiles * words * kLanes, aligned);
  std::vector<int32_t> counts(static_cast<size_t>(tokens * tiles * kLanes));
  kernel(activations, tokens, words, aligned, tiles, counts.data());
  return counts;
}

// The most that `loop` does in a second, called again and again: it does as many things as it returns.
template <class Loop>
double best_rate(double seconds, const Loop& loop) {
  using Clock = std::chrono::steady_clock;
  constexpr long kRounds = 1 << 16;
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point before = Clock::now();
    const long done = loop(kRounds);
    best = std::max(best, static_cast<double>(done) / std::chrono::duration<double>(Clock::now() - before).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

}  // namespace

std::vector<int32_t> binary_linear(const std::string& isa, const uint32_t* activations, long tokens, long words,
                                   const uint32_t* weight, long tiles, long length) {
  std::vector<int32_t> products = count(kernels_for(isa).count_xor, activations, tokens, words, weight, tiles);
  for (int32_t& product : products) product = static_cast<int32_t>(length) - 2 * product;
  return products;
}

std::vector<int32_t> common_bits(const std::string& isa, const uint32_t* activations, long tokens, long words,
                                 const uint32_t* weight, long tiles) {
  return count(kernels_for(isa).count_and, activations, tokens, words, weight, tiles);
}

double peak_rate(const std::string& isa, double seconds) {
  const KernelTable& kernels = kernels_for(isa);
  int32_t sink[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  return best_rate(seconds, [&](long rounds) { return kernels.peak(rounds, sink); });
}

double float_peak_rate(const std::string& isa, double seconds) {
  const KernelTable& kernels = kernels_for(isa);
  float sink[4 + kLanes] = {0.75f, 0.25f, 1.0f};
  return best_rate(seconds, [&](long rounds) { return kernels.float_peak(rounds, sink); });
}

}  // namespace bhvit
