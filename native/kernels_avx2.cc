// AVX2: population count by two table look-ups of nibbles (VPSHUFB), summed in bytes.
//
// A byte of XORed bits counts at most 8, so bytes hold 31 words (248) before they are widened to 32 bits.
// Two tokens times sixteen outputs keep four byte accumulators, two weights and the tables in registers.

#include <immintrin.h>

#define BHVIT_NATIVE_LANES 8
#include "vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 4;
constexpr long kWordsPerByteSum = 255 / 8;

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ));
  return static_cast<u32>(low | high << 8);
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  const i32x16 signs = v << (31 - k);
  return static_cast<u32>(_mm256_movemask_ps((__m256)signs.lo) | _mm256_movemask_ps((__m256)signs.hi) << 8);
}

BHVIT_INLINE f32x16 gather(const float* from, const i32x16& index) {
  return {_mm256_i32gather_ps(from, (__m256i)index.lo, 4), _mm256_i32gather_ps(from, (__m256i)index.hi, 4)};
}

// Set bits of each byte.
BHVIT_INLINE __m256i count_bytes(__m256i v) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                         2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(v, 4), nibble));
  return _mm256_add_epi8(low, high);
}

// Sums of the four bytes of each 32-bit lane.
BHVIT_INLINE NativeI sum_bytes(__m256i bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return (NativeI)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

template <int T, class Combine>
BHVIT_INLINE void count(i32x16 (&acc)[T], const u32* bits, long stride, long step, const u32* weight, long words,
                        Combine combine) {
  while (words > 0) {
    const long part = words < kWordsPerByteSum ? words : kWordsPerByteSum;
    __m256i low[T], high[T];
    for (int t = 0; t < T; t++) low[t] = high[t] = _mm256_setzero_si256();
    for (long w = 0; w < part; w++, bits += stride, weight += kLanes) {
      const __m256i weights_low = _mm256_load_si256(reinterpret_cast<const __m256i*>(weight));
      const __m256i weights_high = _mm256_load_si256(reinterpret_cast<const __m256i*>(weight + 8));
      for (int t = 0; t < T; t++) {
        const __m256i a = _mm256_set1_epi32(static_cast<int>(bits[step * t]));
        low[t] = _mm256_add_epi8(low[t], count_bytes(combine(weights_low, a)));
        high[t] = _mm256_add_epi8(high[t], count_bytes(combine(weights_high, a)));
      }
    }
    for (int t = 0; t < T; t++) acc[t] = acc[t] + i32x16{sum_bytes(low[t]), sum_bytes(high[t])};
    words -= part;
  }
}

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, 1, weight, words, [](__m256i w, __m256i a) { return _mm256_xor_si256(w, a); });
}

template <int T, int step>
BHVIT_INLINE void and_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, step, weight, words, [](__m256i w, __m256i a) { return _mm256_and_si256(w, a); });
}

long peak(long rounds, int32_t* sink) {
  constexpr int kChains = 4;
  __m256i total[kChains], values[kChains];
  for (int i = 0; i < kChains; i++) {
    total[i] = _mm256_setzero_si256();
    values[i] = _mm256_set1_epi32(sink[i]);
  }
  __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sink));
  for (long round = 0; round < rounds; round++) {
    asm volatile("" : "+x"(mask));  // or the compiler would count each XOR once for all rounds
    for (int i = 0; i < kChains; i++) total[i] = _mm256_add_epi8(total[i], count_bytes(_mm256_xor_si256(values[i], mask)));
  }
  for (int i = 1; i < kChains; i++) total[0] = _mm256_add_epi8(total[0], total[i]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sink), total[0]);
  return rounds * kChains * 8 * kWordBits;
}

}  // namespace
}  // namespace bhvit

#include "table_inl.h"

namespace bhvit {
extern const KernelTable kAvx2Kernels;
const KernelTable kAvx2Kernels = table("avx2");
}  // namespace bhvit
