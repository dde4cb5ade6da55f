// AVX-512 with VPOPCNTDQ: one load holds the same 32 inputs of 16 outputs; XOR, VPOPCNTD, VPADDD.
//
// On Zen 4 a 512-bit operation takes two 256-bit slots of four a cycle, and VPOPCNTD has two of the four
// ports: XOR, count and add need 6 slots, 1.5 cycles for 512 binary multiply-accumulates. Blocks of eight
// tokens share each weight load and leave half of the 32 registers to epilogues.

#include <immintrin.h>

#define BHVIT_NATIVE_LANES 16
#include "kernels/avx512_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 8;

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  for (long w = 0; w < words; w++, bits += stride, weight += kLanes) {
    const __m512i weights = _mm512_load_si512(weight);
    for (int t = 0; t < T; t++) {
      const __m512i differing = _mm512_xor_si512(weights, _mm512_set1_epi32(static_cast<int>(bits[t])));
      acc[t] = (i32x16)_mm512_add_epi32((__m512i)acc[t], _mm512_popcnt_epi32(differing));
    }
  }
}

template <int T, int step>
BHVIT_INLINE void and_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  for (long w = 0; w < words; w++, bits += stride, weight += kLanes) {
    const __m512i weights = _mm512_load_si512(weight);
    for (int t = 0; t < T; t++) {
      const __m512i common = _mm512_and_si512(weights, _mm512_set1_epi32(static_cast<int>(bits[step * t])));
      acc[t] = (i32x16)_mm512_add_epi32((__m512i)acc[t], _mm512_popcnt_epi32(common));
    }
  }
}

long peak(long rounds, int32_t* sink) {
  constexpr int kChains = 12;
  __m512i acc[kChains], values[kChains];
  for (int i = 0; i < kChains; i++) {
    acc[i] = _mm512_setzero_si512();
    values[i] = _mm512_set1_epi32(sink[i]);
  }
  __m512i mask = _mm512_loadu_si512(sink);
  for (long round = 0; round < rounds; round++) {
    asm volatile("" : "+" BHVIT_REGISTER(mask));  // or the compiler would count each XOR once for all rounds
    for (int i = 0; i < kChains; i++) {
      acc[i] = _mm512_add_epi32(acc[i], _mm512_popcnt_epi32(_mm512_xor_si512(values[i], mask)));
    }
  }
  for (int i = 1; i < kChains; i++) acc[0] = _mm512_xor_si512(acc[0], acc[i]);
  _mm512_storeu_si512(sink, acc[0]);
  return rounds * kChains * kLanes * kWordBits;
}

}  // namespace
}  // namespace bhvit

#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kAvx512Kernels;
const KernelTable kAvx512Kernels = table("avx512");
}  // namespace bhvit
