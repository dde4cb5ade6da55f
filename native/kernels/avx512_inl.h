// What both AVX-512 kernel files share: masks and look-ups in registers.

#pragma once

#include <immintrin.h>

#define BHVIT_OWN_HALF_PRECISION
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  return _mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(1 << k));
}

BHVIT_INLINE f32x16 gather(const float* from, const i32x16& index) {
  return (f32x16)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, (__m512i)index, from, 4);
}

BHVIT_INLINE f32x16 load_half_precision(const uint16_t* from) {
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
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
  return (f32x16)_mm512_mask_mov_ps(either, _mm512_test_epi32_mask(index, _mm512_set1_epi32(64)), table.last);
}

}  // namespace
}  // namespace bhvit
