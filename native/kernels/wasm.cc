// WebAssembly's 128-bit SIMD, which counts the set bits of bytes; these are summed in bytes.

#include <wasm_simd128.h>

#define BHVIT_NATIVE_LANES 4
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

// How many registers there are is the engine's affair: x86-64 behind it has 16.
constexpr int kBlock = 4, kStrip = 2, kChains = 4;
constexpr bool kCarries = false;  // one instruction counts

// Bit l of the result is the sign of lane l of four vectors.
BHVIT_INLINE u32 mask_of(const NativeI& a, const NativeI& b, const NativeI& c, const NativeI& d) {
  return wasm_i32x4_bitmask((v128_t)a) | wasm_i32x4_bitmask((v128_t)b) << 4 | wasm_i32x4_bitmask((v128_t)c) << 8 |
         wasm_i32x4_bitmask((v128_t)d) << 12;
}

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  return mask_of((NativeI)(a.lo.lo >= b.lo.lo), (NativeI)(a.lo.hi >= b.lo.hi), (NativeI)(a.hi.lo >= b.hi.lo),
                 (NativeI)(a.hi.hi >= b.hi.hi));
}

template <int k>
BHVIT_INLINE u32 mask_bit(const i32x16& v) {
  const i32x16 signs = v << (31 - k);
  return mask_of(signs.lo.lo, signs.lo.hi, signs.hi.lo, signs.hi.hi);
}

BHVIT_INLINE Bytes count_bytes(const Bytes& v) { return (Bytes)wasm_i8x16_popcnt((v128_t)v); }

BHVIT_INLINE NativeI sum_bytes(const Bytes& v) {
  return (NativeI)wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16((v128_t)v));
}

}  // namespace
}  // namespace bhvit

#include "kernels/bytes_inl.h"
#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kWasmKernels;
const KernelTable kWasmKernels = table("wasm");
}  // namespace bhvit
