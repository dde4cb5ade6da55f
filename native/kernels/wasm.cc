// WebAssembly's 128-bit SIMD: bits are counted by look-ups (lookup_inl.h).

#include <wasm_simd128.h>

#define BHVIT_NATIVE_LANES 4
#define BHVIT_OWN_INDEX
#define BHVIT_FEW_INSTANCES
#define BHVIT_SHARED __attribute__((noinline))
#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

// How many registers there are is up to the engine: V8 has 15 on x86-64. Two pairs of tokens take four for their sums,
// three for weights; four pairs would spill.
constexpr int kBlock = 4;

// V8 takes three instructions to choose by a mask, and one for the larger of two.
BHVIT_INLINE NativeF larger(const NativeF& a, const NativeF& b) {  // a < b ? b : a
  return (NativeF)wasm_f32x4_pmax((v128_t)a, (v128_t)b);
}

BHVIT_NOINLINE void prelu_of_any_slope(f32x16* v, const f32x16& slope) {
  v->lo = {prelu(v->lo.lo, slope.lo.lo), prelu(v->lo.hi, slope.lo.hi)};
  v->hi = {prelu(v->hi.lo, slope.hi.lo), prelu(v->hi.hi, slope.hi.hi)};
}

// Whether v > 0 ? v : v * slope is the larger of v and v * slope for every v: where no slope is above 1. Slopes of 0 are
// left out, because 0 times infinity is no number.
BHVIT_INLINE bool gentle(const f32x16& slope) {
  const NativeF most = larger(larger(slope.lo.lo, slope.lo.hi), larger(slope.hi.lo, slope.hi.hi));
  const NativeI zero = (slope.lo.lo == 0) | (slope.lo.hi == 0) | (slope.hi.lo == 0) | (slope.hi.hi == 0);
  return !wasm_v128_any_true((v128_t)(zero | (most > 1)));
}

BHVIT_INLINE f32x16 prelu_if(bool is_gentle, const f32x16& v, const f32x16& slope) {
  if (__builtin_expect(is_gentle, 1)) {
    const f32x16 product = v * slope;
    return {{larger(product.lo.lo, v.lo.lo), larger(product.lo.hi, v.lo.hi)},
            {larger(product.hi.lo, v.hi.lo), larger(product.hi.hi, v.hi.hi)}};
  }
  f32x16 result = v;
  prelu_of_any_slope(&result, slope);
  return result;
}

BHVIT_INLINE f32x16 prelu(const f32x16& v, const f32x16& slope) { return prelu_if(gentle(slope), v, slope); }
BHVIT_INLINE f32x16 prelu(const f32x16& v, float slope) { return prelu_if(slope != 0 && slope <= 1, v, splatf(slope)); }

// Bit l of the result is the sign of lane l of four vectors.
BHVIT_INLINE u32 mask_of(const NativeI& a, const NativeI& b, const NativeI& c, const NativeI& d) {
  return wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4((v128_t)a, (v128_t)b),
                                                    wasm_i16x8_narrow_i32x4((v128_t)c, (v128_t)d)));
}

BHVIT_INLINE u32 mask_ge(const f32x16& a, const f32x16& b) {
  return mask_of((NativeI)(a.lo.lo >= b.lo.lo), (NativeI)(a.lo.hi >= b.lo.hi), (NativeI)(a.hi.lo >= b.hi.lo),
                 (NativeI)(a.hi.hi >= b.hi.hi));
}

BHVIT_INLINE u32 mask_ge(const NativeF& a, const NativeF& b) { return wasm_i32x4_bitmask((v128_t)(a >= b)); }

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

#if !defined(BHVIT_WEB)
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
#endif

#include "kernels/table_inl.h"

namespace bhvit {
extern const KernelTable kWasmKernels;
const KernelTable kWasmKernels = table("wasm");
}  // namespace bhvit
