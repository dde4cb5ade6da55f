// NEON (Advanced SIMD), which every AArch64 has: CNT counts the set bits of bytes, which are summed in bytes.
//
// XOR, count and add take three instructions for 128 bits. 32 registers hold the sums of four tokens times
// sixteen outputs and the weights they share.

#include <arm_neon.h>

#define BHVIT_NATIVE_LANES 4
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 4, kStrip = 4, kChains = 12;
constexpr bool kCarries = false;  // one instruction counts

// Bit l of the result is lane l of four vectors whose lanes are all ones or all zeros.
BHVIT_INLINE u32 mask_of(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(c), vreinterpretq_u16_u32(d));
  const uint8x16_t bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  uint8x16_t sums = vandq_u8(bytes, bit);
  for (int i = 0; i < 3; i++) sums = vpaddq_u8(sums, sums);
  return vgetq_lane_u16(vreinterpretq_u16_u8(sums), 0);
}

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  return mask_of(
      vcgeq_f32((float32x4_t)a.lo.lo, (float32x4_t)b.lo.lo), vcgeq_f32((float32x4_t)a.lo.hi, (float32x4_t)b.lo.hi),
      vcgeq_f32((float32x4_t)a.hi.lo, (float32x4_t)b.hi.lo), vcgeq_f32((float32x4_t)a.hi.hi, (float32x4_t)b.hi.hi));
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  const uint32x4_t bit = vdupq_n_u32(1u << k);
  return mask_of(vtstq_u32((uint32x4_t)v.lo.lo, bit), vtstq_u32((uint32x4_t)v.lo.hi, bit),
                 vtstq_u32((uint32x4_t)v.hi.lo, bit), vtstq_u32((uint32x4_t)v.hi.hi, bit));
}

BHVIT_INLINE Bytes count_bytes(const Bytes& v) { return (Bytes)vcntq_u8((uint8x16_t)v); }

BHVIT_INLINE NativeI sum_bytes(const Bytes& v) { return (NativeI)vpaddlq_u16(vpaddlq_u8((uint8x16_t)v)); }

}  // namespace
}  // namespace bhvit

#include "kernels/bytes_inl.h"
#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kNeonKernels;
const KernelTable kNeonKernels = table("neon");
}  // namespace bhvit
