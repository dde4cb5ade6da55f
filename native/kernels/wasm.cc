// WebAssembly's 128-bit SIMD: bits are counted by look-ups (lookup_inl.h).

#include <wasm_simd128.h>

#define BHVIT_NATIVE_LANES 4
#define BHVIT_OWN_INDEX
#define BHVIT_OWN_PRELU
#define BHVIT_FEW_INSTANCES
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

// How many registers there are is the engine's affair: x86-64 behind it has 16. Four pairs of tokens take 8 for their sums.
constexpr int kBlock = 8;

// v > 0 ? v : v * slope, as v times one or the slope.
BHVIT_INLINE NativeF prelu(const NativeF& v, const NativeF& slope) {
  const NativeI one = as_int(splat<NativeF>(1.0f));
  return v * as_float(as_int(slope) ^ ((NativeI)(v > 0) & (as_int(slope) ^ one)));
}

// Bit l of the result is the sign of lane l of four vectors.
BHVIT_INLINE u32 mask_of(const NativeI& a, const NativeI& b, const NativeI& c, const NativeI& d) {
  return wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4((v128_t)a, (v128_t)b),
                                                    wasm_i16x8_narrow_i32x4((v128_t)c, (v128_t)d)));
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

BHVIT_INLINE Bytes look_up_bytes(const Bytes& table, const Bytes& index) {
#if defined(__wasm_relaxed_simd__)
  return (Bytes)__builtin_wasm_relaxed_swizzle_i8x16((__i8x16)table, (__i8x16)index);
#else
  return (Bytes)wasm_i8x16_swizzle((v128_t)table, (v128_t)index);
#endif
}

}  // namespace
}  // namespace bhvit

#include "kernels/lookup_inl.h"

namespace bhvit {
namespace {

// XOR, population count and add in the way of popcount, the instruction that WebAssembly has for it.
long peak(long rounds, int32_t* sink) {
  constexpr int kChains = 4;
  Bytes total[kChains], values[kChains];
  for (int i = 0; i < kChains; i++) {
    total[i] = Bytes{};
    values[i] = (Bytes)splat<NativeI>(sink[i]);
  }
  Bytes mask = load<Bytes>(sink);
  for (long round = 0; round < rounds; round++) {
    asm volatile("" : "+" BHVIT_REGISTER(mask));  // or the compiler would count each XOR once for all rounds
    for (int i = 0; i < kChains; i++) total[i] = total[i] + (Bytes)wasm_i8x16_popcnt((v128_t)(values[i] ^ mask));
  }
  for (int i = 1; i < kChains; i++) total[0] = total[0] + total[i];
  store(sink, total[0]);
  return rounds * kChains * BHVIT_NATIVE_LANES * kWordBits;
}

}  // namespace
}  // namespace bhvit

#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kWasmKernels;
const KernelTable kWasmKernels = table("wasm");
}  // namespace bhvit
