// AVX-512 without VPOPCNTDQ (Skylake-X to Cooper Lake): population count by table look-ups of nibbles, as in AVX2.
//
// A pass keeps the byte sums of eight tokens, the weights and the table in 11 of 32 registers.

#include <immintrin.h>

#define BHVIT_NATIVE_LANES 16
#define BHVIT_EVEN_INSTANCES
#include "kernels/avx512_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 8, kStrip = 1, kChains = 8;
constexpr bool kCarries = true;

BHVIT_INLINE Bytes count_bytes(const Bytes& bytes) {
  const __m512i v = (__m512i)bytes, nibble = _mm512_set1_epi32(0x0f0f0f0f);
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(v, nibble));
  const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi32(v, 4), nibble));
  return (Bytes)_mm512_add_epi8(low, high);
}

#define BHVIT_OWN_CARRY
BHVIT_INLINE Bytes carry(const Bytes& p0, const Bytes& p1, const Bytes& p2) {
  return (Bytes)_mm512_ternarylogic_epi32((__m512i)p0, (__m512i)p1, (__m512i)p2, 0x74);
}

BHVIT_INLINE NativeI sum_bytes(const Bytes& v) {
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)v, _mm512_set1_epi8(1));
  return (NativeI)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

}  // namespace
}  // namespace bhvit

#include "kernels/bytes_inl.h"
#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kAvx512BwKernels;
const KernelTable kAvx512BwKernels = table("avx512bw");
}  // namespace bhvit
