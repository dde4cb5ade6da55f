// SSE2, which every x86-64 has: population count by adding neighbouring bits, then summed in bytes.

#include <emmintrin.h>

#define BHVIT_NATIVE_LANES 4
#define BHVIT_EVEN_INSTANCES
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 4, kStrip = 2, kChains = 4;
constexpr bool kCarries = true;

// Bit l of the result is the sign of lane l of four vectors.
BHVIT_INLINE u32 mask_of(__m128 a, __m128 b, __m128 c, __m128 d) {
  return static_cast<u32>(_mm_movemask_ps(a) | _mm_movemask_ps(b) << 4 | _mm_movemask_ps(c) << 8 |
                          _mm_movemask_ps(d) << 12);
}

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  return mask_of(_mm_cmpge_ps(a.lo.lo, b.lo.lo), _mm_cmpge_ps(a.lo.hi, b.lo.hi), _mm_cmpge_ps(a.hi.lo, b.hi.lo),
                 _mm_cmpge_ps(a.hi.hi, b.hi.hi));
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  const i32x16 signs = v << (31 - k);
  return mask_of((__m128)signs.lo.lo, (__m128)signs.lo.hi, (__m128)signs.hi.lo, (__m128)signs.hi.hi);
}

// Sums of 2, 4 and 8 neighbouring bits in place.
BHVIT_INLINE Bytes count_bytes(const Bytes& bytes) {
  NativeU v = (NativeU)bytes;
  v = v - (v >> 1 & 0x55555555);
  v = (v & 0x33333333) + (v >> 2 & 0x33333333);
  return (Bytes)((v + (v >> 4)) & 0x0f0f0f0f);
}

BHVIT_INLINE NativeI sum_bytes(const Bytes& v) {
  const NativeU lanes = (NativeU)v;
  const NativeU pairs = (lanes & 0x00ff00ff) + (lanes >> 8 & 0x00ff00ff);
  return (NativeI)_mm_madd_epi16((__m128i)pairs, _mm_set1_epi16(1));
}

}  // namespace
}  // namespace bhvit

#include "kernels/bytes_inl.h"
#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kSse2Kernels;
const KernelTable kSse2Kernels = table("sse2");
}  // namespace bhvit
