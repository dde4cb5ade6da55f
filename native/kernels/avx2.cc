// AVX2: population count by table look-ups of nibbles (VPSHUFB), summed in bytes.

#include <immintrin.h>

#define BHVIT_NATIVE_LANES 8
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 4, kStrip = 2, kChains = 4;
constexpr bool kCarries = false;  // look-ups of nibbles are cheap enough that carries gain nothing

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

BHVIT_INLINE Bytes count_bytes(const Bytes& bytes) {
  const __m256i v = (__m256i)bytes, nibble = _mm256_set1_epi8(15);
  const __m256i table =
      _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(v, 4), nibble));
  return (Bytes)_mm256_add_epi8(low, high);
}

BHVIT_INLINE NativeI sum_bytes(const Bytes& v) {
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)v, _mm256_set1_epi8(1));
  return (NativeI)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

}  // namespace
}  // namespace bhvit

#include "kernels/bytes_inl.h"
#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kAvx2Kernels;
const KernelTable kAvx2Kernels = table("avx2");
}  // namespace bhvit
