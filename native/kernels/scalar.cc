// Plain C++ for any processor: the compiler lowers the short vectors to what the baseline has.

#define BHVIT_NATIVE_LANES 4
#define BHVIT_FEW_INSTANCES
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

constexpr int kBlock = 4;

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  float x[16], y[16];
  store(x, a);
  store(y, b);
  u32 mask = 0;
  for (int l = 0; l < 16; l++) mask |= static_cast<u32>(x[l] >= y[l]) << l;
  return mask;
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  u32 lanes[16], mask = 0;
  store(lanes, v);
  for (int l = 0; l < 16; l++) mask |= (lanes[l] >> k & 1) << l;
  return mask;
}

// Set bits of each 32-bit lane: sums of 2, 4 and 8 neighbouring bits in place, then of the four bytes.
BHVIT_INLINE u32 count_bits(u32 v) {
  v = v - (v >> 1 & 0x55555555);
  v = (v & 0x33333333) + (v >> 2 & 0x33333333);
  v = (v + (v >> 4)) & 0x0f0f0f0f;
  return v * 0x01010101 >> 24;
}

template <int T, class Combine>
BHVIT_INLINE void count(i32x16 (&acc)[T], const u32* bits, long stride, long step, const u32* weight, long words,
                        Combine combine) {
  for (int t = 0; t < T; t++) {
    u32 sums[16];
    store(sums, acc[t]);
    for (long w = 0; w < words; w++) {
      const u32 a = bits[w * stride + step * t];
      for (int l = 0; l < 16; l++) sums[l] += count_bits(combine(a, weight[w * kLanes + l]));
    }
    acc[t] = loadi(sums);
  }
}

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, 1, weight, words, [](u32 a, u32 w) { return a ^ w; });
}

template <int T, int step>
BHVIT_INLINE void and_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, step, weight, words, [](u32 a, u32 w) { return a & w; });
}

long peak(long rounds, int32_t* sink) {
  u32 sums[16] = {}, weights[16];
  for (int l = 0; l < 16; l++) weights[l] = static_cast<u32>(sink[l]);
  for (long i = 0; i < rounds; i++) {
    for (int l = 0; l < 16; l++) sums[l] += count_bits(weights[l] ^ sums[l]);
  }
  for (int l = 0; l < 16; l++) sink[l] = static_cast<int32_t>(sums[l]);
  return rounds * kLanes * kWordBits;
}

}  // namespace
}  // namespace bhvit

#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kScalarKernels;
const KernelTable kScalarKernels = table("scalar");
}  // namespace bhvit
