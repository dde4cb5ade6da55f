// Scratch memory of the kernels: one layout each, which the engine runs without memory to count its bytes.
//
// Everything lies in an unnamed namespace: each file has its own copy, compiled for its own instruction set.

#pragma once

#include "kernels/types.h"

#define BHVIT_INLINE __attribute__((always_inline)) inline

namespace bhvit {
namespace {

BHVIT_INLINE long divide_up(long count, long unit) { return (count + unit - 1) / unit; }
BHVIT_INLINE long round_up(long count, long unit) { return divide_up(count, unit) * unit; }

// Hands out parts of a block, each on 64 bytes. Without a block it hands out null pointers and counts.
struct Scratch {
  char* block = nullptr;
  long used = 0;

  template <class T>
  BHVIT_INLINE T* take(long count) {
    T* part = block ? reinterpret_cast<T*>(block + used) : nullptr;
    used += round_up(count * static_cast<long>(sizeof(T)), 64);
    return part;
  }
};

// 32-bit words that kernels keep for a word of weights' bits, and for one of activations' bits besides the bits
// themselves: kernels that look counts up (lookup_inl.h) expand both.
#if defined(__wasm_simd128__)
constexpr long kWeightWords = 2, kIndexWords = 16;
#else
constexpr long kWeightWords = 1, kIndexWords = 0;
#endif

// Where the weights of output o, a multiple of 16, begin, if each output has so many words of bits.
BHVIT_INLINE const uint32_t* weight_tile(const uint32_t* weights, long o, long words) {
  return weights + o * words * kWeightWords;
}

struct LinearScratch {
  uint32_t* bits;            // [word][token]
  uint32_t* index;           // what `prepared` makes of bits
  float *activations, *out;  // [token][input]; [output/16][token][16]
  BHVIT_INLINE LinearScratch(Scratch& s, long inputs, long outputs)
      : bits(s.take<uint32_t>(kMaxBlock * inputs / kWordBits)),
        index(s.take<uint32_t>(kIndexWords * kMaxBlock * inputs / kWordBits)),
        activations(s.take<float>(kMaxBlock * inputs)),
        out(s.take<float>(kMaxBlock * outputs)) {}
};

}  // namespace
}  // namespace bhvit
