// AVX-512 with VPOPCNTDQ: one load holds the same 32 inputs of 16 outputs; XOR, VPOPCNTD, VPADDD.
//
// On Zen 4 a 512-bit operation takes two 256-bit slots of four a cycle, and VPOPCNTD has two of the four
// ports: XOR, count and add need 6 slots, 1.5 cycles for 512 binary multiply-accumulates. Blocks of eight
// tokens share each weight load and leave half of the 32 registers to epilogues.

#include <immintrin.h>

#define BHVIT_NATIVE_LANES 16
#include "vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 8;

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  return _mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(1 << k));
}

BHVIT_INLINE f32x16 gather(const float* from, const i32x16& index) {
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, (__m512i)index, from, 4);
}

// A table of 64 entries and one more lies in registers: a gather costs about eight times the two permutations.
#define BHVIT_OWN_TABLE
struct Table {
  const float* values;
  bool small;
  __m512 part[4];
  __m512 last;  // entry 64
};

BHVIT_INLINE Table make_table(const float* values, long count) {
  Table table{values, count <= 65, {}, {}};
  if (!table.small) return table;
  for (long i = 0; i < 4; i++) {
    const long left = count - 16 * i, lanes = left < 0 ? 0 : left < 16 ? left : 16;
    table.part[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << lanes) - 1), values + 16 * i);
  }
  table.last = _mm512_set1_ps(values[count - 1]);  // of 65 entries; look-ups of fewer never get that far
  return table;
}

BHVIT_INLINE f32x16 look_up(const Table& table, const i32x16& lanes) {
  if (!table.small) return gather(table.values, lanes);
  const __m512i index = (__m512i)lanes;
  const __m512 low = _mm512_permutex2var_ps(table.part[0], index, table.part[1]);
  const __m512 high = _mm512_permutex2var_ps(table.part[2], index, table.part[3]);
  const __m512 either = _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), high);
  return _mm512_mask_mov_ps(either, _mm512_test_epi32_mask(index, _mm512_set1_epi32(64)), table.last);
}

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
    asm volatile("" : "+v"(mask));  // or the compiler would count each XOR once for all rounds
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

#include "table_inl.h"

namespace bhvit {
extern const KernelTable kAvx512Kernels;
const KernelTable kAvx512Kernels = table("avx512");
}  // namespace bhvit
