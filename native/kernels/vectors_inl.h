// Vectors of 16 floats or integers over whatever width the including file's instruction set has.
//
// Included by the file of each instruction set after it defined BHVIT_NATIVE_LANES (4, 8 or 16). Everything lies in an
// unnamed namespace: each instruction set has its own copy, and the linker cannot mix them up.
// A vector wider than the registers is a pair of halves, not a longer GCC vector: those live in memory.

#pragma once

#include "kernels/scratch.h"

#define BHVIT_NOINLINE __attribute__((noinline))
#if !defined(BHVIT_SHARED)
#define BHVIT_SHARED BHVIT_INLINE  // functions that all callers may share, where code must be short
#endif
#if defined(__AVX512F__)  // the constraint of a native vector in assembly: a register where there are such, else memory
#define BHVIT_REGISTER "v"
#elif defined(__SSE2__) && BHVIT_NATIVE_LANES < 16
#define BHVIT_REGISTER "x"
#elif defined(__aarch64__)
#define BHVIT_REGISTER "w"
#else
#define BHVIT_REGISTER "m"
#endif
namespace bhvit {
namespace {

typedef uint32_t u32;
typedef uint16_t __attribute__((may_alias)) u16;
typedef uint32_t __attribute__((may_alias)) u32_alias;

typedef float NativeF __attribute__((vector_size(4 * BHVIT_NATIVE_LANES)));
typedef int32_t NativeI __attribute__((vector_size(4 * BHVIT_NATIVE_LANES)));
typedef uint32_t NativeU __attribute__((vector_size(4 * BHVIT_NATIVE_LANES)));
typedef uint8_t Bytes __attribute__((vector_size(4 * BHVIT_NATIVE_LANES)));

template <class V>
struct Pair {
  V lo, hi;
};

template <class V>
constexpr bool is_pair = false;
template <class V>
constexpr bool is_pair<Pair<V>> = true;

#if BHVIT_NATIVE_LANES == 16
typedef NativeF f32x16;
typedef NativeI i32x16;
#elif BHVIT_NATIVE_LANES == 8
typedef Pair<NativeF> f32x16;
typedef Pair<NativeI> i32x16;
#else
typedef Pair<Pair<NativeF>> f32x16;
typedef Pair<Pair<NativeI>> i32x16;
#endif

#define BHVIT_PAIRWISE(op)                                               \
  template <class V>                                                     \
  BHVIT_INLINE Pair<V> operator op(const Pair<V>& a, const Pair<V>& b) { \
    return {a.lo op b.lo, a.hi op b.hi};                                 \
  }
BHVIT_PAIRWISE(+)
BHVIT_PAIRWISE(-)
BHVIT_PAIRWISE(*)
BHVIT_PAIRWISE(/)
BHVIT_PAIRWISE(&)
BHVIT_PAIRWISE(|)
BHVIT_PAIRWISE(^)
#undef BHVIT_PAIRWISE

template <class V>
BHVIT_INLINE Pair<V> operator<<(const Pair<V>& a, int count) {
  return {a.lo << count, a.hi << count};
}

template <class V>
BHVIT_INLINE V load(const void* from) {
  if constexpr (is_pair<V>) {
    using Half = decltype(V::lo);
    return {load<Half>(from), load<Half>(static_cast<const char*>(from) + sizeof(Half))};
  } else {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
}

template <class V>
BHVIT_INLINE void store(void* to, const V& v) {
  if constexpr (is_pair<V>) {
    store(to, v.lo);
    store(static_cast<char*>(to) + sizeof v.lo, v.hi);
  } else {
    __builtin_memcpy(to, &v, sizeof v);
  }
}

template <class V, class Scalar>
BHVIT_INLINE V splat(Scalar s) {
  if constexpr (is_pair<V>) {
    using Half = decltype(V::lo);
    const Half half = splat<Half>(s);
    return {half, half};
  } else {
    return s - V{};
  }
}

BHVIT_INLINE f32x16 loadf(const float* from) { return load<f32x16>(from); }
BHVIT_INLINE i32x16 loadi(const void* from) { return load<i32x16>(from); }
BHVIT_INLINE f32x16 splatf(float s) { return splat<f32x16>(s); }
BHVIT_INLINE i32x16 splati(int32_t s) { return splat<i32x16>(s); }

// 16 unsigned 16-bit integers.
template <class V>
BHVIT_INLINE V load_u16_as(const uint16_t* from) {
  if constexpr (is_pair<V>) {
    using Half = decltype(V::lo);
    return {load_u16_as<Half>(from), load_u16_as<Half>(from + sizeof(Half) / 4)};
  } else {
    typedef uint16_t Halves __attribute__((vector_size(2 * BHVIT_NATIVE_LANES)));
    return __builtin_convertvector(load<Halves>(from), V);
  }
}
BHVIT_INLINE i32x16 load_u16(const uint16_t* from) { return load_u16_as<i32x16>(from); }

BHVIT_INLINE NativeF to_float(const NativeI& v) { return __builtin_convertvector(v, NativeF); }
BHVIT_INLINE NativeF as_float(const NativeI& v) { return (NativeF)v; }
BHVIT_INLINE NativeI as_int(const NativeF& v) { return (NativeI)v; }
// a > b ? a : b, and a < b ? a : b: b where either is not a number.
BHVIT_INLINE NativeF max(const NativeF& a, const NativeF& b) { return a > b ? a : b; }
BHVIT_INLINE NativeF min(const NativeF& a, const NativeF& b) { return a < b ? a : b; }
BHVIT_INLINE NativeI min(const NativeI& a, const NativeI& b) { return a < b ? a : b; }
BHVIT_INLINE NativeF prelu(const NativeF& v, const NativeF& slope) { return v > 0 ? v : v * slope; }
BHVIT_INLINE NativeF sign_ge(const NativeF& a, const NativeF& b) {
  return a >= b ? splat<NativeF>(1.0f) : splat<NativeF>(-1.0f);
}

template <class V>
BHVIT_INLINE auto to_float(const Pair<V>& v) -> Pair<decltype(to_float(v.lo))> {
  return {to_float(v.lo), to_float(v.hi)};
}
template <class V>
BHVIT_INLINE auto as_float(const Pair<V>& v) -> Pair<decltype(as_float(v.lo))> {
  return {as_float(v.lo), as_float(v.hi)};
}
template <class V>
BHVIT_INLINE auto as_int(const Pair<V>& v) -> Pair<decltype(as_int(v.lo))> {
  return {as_int(v.lo), as_int(v.hi)};
}
template <class V>
BHVIT_INLINE Pair<V> max(const Pair<V>& a, const Pair<V>& b) {
  return {max(a.lo, b.lo), max(a.hi, b.hi)};
}
template <class V>
BHVIT_INLINE Pair<V> min(const Pair<V>& a, const Pair<V>& b) {
  return {min(a.lo, b.lo), min(a.hi, b.hi)};
}
template <class V>
BHVIT_INLINE Pair<V> prelu(const Pair<V>& v, const Pair<V>& slope) {
  return {prelu(v.lo, slope.lo), prelu(v.hi, slope.hi)};
}
template <class V>
BHVIT_INLINE Pair<V> sign_ge(const Pair<V>& a, const Pair<V>& b) {
  return {sign_ge(a.lo, b.lo), sign_ge(a.hi, b.hi)};
}

// The even lanes of a, then those of b; and the odd ones.
#if BHVIT_NATIVE_LANES == 16
BHVIT_INLINE NativeF evens(const NativeF& a, const NativeF& b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
BHVIT_INLINE NativeF odds(const NativeF& a, const NativeF& b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#elif BHVIT_NATIVE_LANES == 8
BHVIT_INLINE NativeF evens(const NativeF& a, const NativeF& b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
BHVIT_INLINE NativeF odds(const NativeF& a, const NativeF& b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
#else
BHVIT_INLINE NativeF evens(const NativeF& a, const NativeF& b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
BHVIT_INLINE NativeF odds(const NativeF& a, const NativeF& b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#endif
template <class V>
BHVIT_INLINE Pair<V> evens(const Pair<V>& a, const Pair<V>& b) {
  return {evens(a.lo, a.hi), evens(b.lo, b.hi)};
}
template <class V>
BHVIT_INLINE Pair<V> odds(const Pair<V>& a, const Pair<V>& b) {
  return {odds(a.lo, a.hi), odds(b.lo, b.hi)};
}

typedef float Float8 __attribute__((vector_size(32)));
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float2 __attribute__((vector_size(8)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef int32_t Int2 __attribute__((vector_size(8)));

// The lower and the upper half of a vector's lanes.
BHVIT_INLINE Pair<Float2> halves(const Float4& v) {
  return {__builtin_shufflevector(v, v, 0, 1), __builtin_shufflevector(v, v, 2, 3)};
}
BHVIT_INLINE Pair<Int2> halves(const Int4& v) {
  return {__builtin_shufflevector(v, v, 0, 1), __builtin_shufflevector(v, v, 2, 3)};
}
#if BHVIT_NATIVE_LANES >= 8
BHVIT_INLINE Pair<Float4> halves(const Float8& v) {
  return {__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)};
}
BHVIT_INLINE Pair<Int4> halves(const Int8& v) {
  return {__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)};
}
#endif
#if BHVIT_NATIVE_LANES == 16
BHVIT_INLINE Pair<Float8> halves(const NativeF& v) {
  return {__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)};
}
BHVIT_INLINE Pair<Int8> halves(const NativeI& v) {
  return {__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)};
}
#endif
template <class V>
BHVIT_INLINE const Pair<V>& halves(const Pair<V>& v) {
  return v;
}

// The tree of `sum16`: lanes l and l+8, then l and l+4, l+2, l+1; here with any operation of two vectors.
template <class V, class Op>
BHVIT_INLINE auto reduce(const V& v, Op op) {
  const auto parts = halves(v);
  const auto half = op(parts.lo, parts.hi);
  if constexpr (sizeof half == 8) {
    return op(half, __builtin_shufflevector(half, half, 1, 0))[0];
  } else {
    return reduce(half, op);
  }
}

BHVIT_INLINE float sum_lanes(const f32x16& v) {
  return reduce(v, [](const auto& a, const auto& b) { return a + b; });
}
BHVIT_INLINE int32_t min_lanes(const i32x16& v) {
  return reduce(v, []<class Half>(const Half& a, const Half& b) {
    if constexpr (is_pair<Half>) {
      return min(a, b);
    } else {
      return a < b ? a : b;
    }
  });
}
BHVIT_INLINE float max_lanes(const f32x16& v) {
  return reduce(v, []<class Half>(const Half& a, const Half& b) {
    if constexpr (is_pair<Half>) {
      return max(a, b);
    } else {
      return a > b ? a : b;
    }
  });
}

#if BHVIT_NATIVE_LANES == 4  // instruction sets of wider registers have gathers of their own
BHVIT_SHARED f32x16 gather(const float* from, const i32x16& index) {
  int32_t i[16];
  float out[16];
  store(i, index);
  for (int l = 0; l < 16; l++) out[l] = from[i[l]];
  return loadf(out);
}
#endif

// Rounds to the nearest integer, ties to even, for |v| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
constexpr float kRoundMagic = 12582912.0f;

BHVIT_INLINE f32x16 round_even(const f32x16& v) { return (v + splatf(kRoundMagic)) - splatf(kRoundMagic); }

// 16 finite floats of half precision. Moved to where a float has them, a half's exponent and fraction stand for 2^-112
// of its value, subnormal halves included.
#if !defined(BHVIT_OWN_HALF_PRECISION)
BHVIT_INLINE f32x16 load_half_precision(const uint16_t* from) {
  const i32x16 half = load_u16(from);
  const f32x16 magnitude = as_float((half & splati(0x7fff)) << 13) * splatf(0x1p112f);
  return as_float(as_int(magnitude) | (half & splati(0x8000)) << 16);
}
#endif

// e^x for x <= 0, in the steps of `exp32` of format/arithmetic.py.
BHVIT_INLINE f32x16 exp32(f32x16 x) {
  x = max(x, splatf(-87.0f));
  const f32x16 shifted = x * splatf(1.44269504f) + splatf(kRoundMagic);
  const f32x16 n = shifted - splatf(kRoundMagic);
  const f32x16 r = (x - n * splatf(0.693359375f)) - n * splatf(-2.12194440e-4f);
  f32x16 q = splatf(1.9875691500e-4f);
  q = q * r + splatf(1.3981999507e-3f);
  q = q * r + splatf(8.3334519073e-3f);
  q = q * r + splatf(4.1665795894e-2f);
  q = q * r + splatf(1.6666665459e-1f);
  q = q * r + splatf(5.0000001201e-1f);
  const f32x16 y = (q * (r * r) + r) + splatf(1.0f);
  // The low bits of `shifted` are n in two's complement; shifted up they are 2^n's exponent less 127.
  const i32x16 exponent = (as_int(shifted) << 23) + splati(127 << 23);
  return y * as_float(exponent);
}

// erf in the steps of `erf32` of format/arithmetic.py.
BHVIT_INLINE f32x16 erf32(const f32x16& v) {
  const i32x16 sign = as_int(v) & splati(INT32_MIN);
  const f32x16 a = as_float(as_int(v) ^ sign);
  const f32x16 t = splatf(1.0f) / (splatf(1.0f) + a * splatf(0.3275911f));
  f32x16 p = splatf(1.061405429f);
  p = p * t + splatf(-1.453152027f);
  p = p * t + splatf(1.421413741f);
  p = p * t + splatf(-0.284496736f);
  p = p * t + splatf(0.254829592f);
  const f32x16 r = splatf(1.0f) - (p * t) * exp32(splatf(0.0f) - a * a);
  return as_float(as_int(r) ^ sign);
}

// Calls fn.operator()<T>(first) for blocks of T <= kBlock tokens that share [begin, end) evenly.
template <int T, int step, class Fn>
BHVIT_INLINE void call_block(long count, long first, Fn& fn) {
  if (count == T) {
    fn.template operator()<T>(first);
  } else if constexpr (T > step) {
    call_block<T - step, step>(count, first, fn);
  }
}

// Kernels whose shares are all compiled: for those that are tuned. With BHVIT_FEW_INSTANCES, blocks of kBlock tokens and
// of one, and for other kernels of two and of one; with BHVIT_EVEN_INSTANCES, blocks of even numbers of tokens, and of
// one where the last one is odd. They take half as long to compile, and most layers have even numbers of tokens.
#if defined(BHVIT_FEW_INSTANCES)
template <int kBlock, class Fn>
BHVIT_INLINE void for_blocks(long begin, long end, Fn fn) {
  for (; begin + kBlock <= end; begin += kBlock) fn.template operator()<kBlock>(begin);
  for (; begin < end; begin++) fn.template operator()<1>(begin);
}

template <int, class Fn>
BHVIT_INLINE void for_few_blocks(long begin, long end, Fn fn) {
  for (; begin + 2 <= end; begin += 2) fn.template operator()<2>(begin);
  for (; begin < end; begin++) fn.template operator()<1>(begin);
}
#else
#if defined(BHVIT_EVEN_INSTANCES)
constexpr long kBlockStep = 2;
#else
constexpr long kBlockStep = 1;
#endif

template <int kBlock, class Fn>
BHVIT_INLINE void for_blocks(long begin, long end, Fn fn) {
  while (end - begin >= kBlockStep) {
    const long left = (end - begin) / kBlockStep, most = kBlock / kBlockStep;
    const long blocks = (left + most - 1) / most, count = (left + blocks - 1) / blocks * kBlockStep;
    call_block<kBlock, kBlockStep>(count, begin, fn);
    begin += count;
  }
  if (kBlockStep > 1 && begin < end) fn.template operator()<1>(begin);
}

// Calls fn.operator()<T>(first) for blocks of kBlock tokens, then of half of that where it is more than two, then of
// one: for kernels that would take long to compile for every number of tokens.
template <int kBlock, class Fn>
BHVIT_INLINE void for_few_blocks(long begin, long end, Fn fn) {
  for (; begin + kBlock <= end; begin += kBlock) fn.template operator()<kBlock>(begin);
  if constexpr (kBlock >= 6) {
    for (; begin + kBlock / 2 <= end; begin += kBlock / 2) fn.template operator()<kBlock / 2>(begin);
  }
  if constexpr (kBlock > 1) {
    for (; begin < end; begin++) fn.template operator()<1>(begin);
  }
}
#endif

// kFirstLanes[n]: all bits of the first n lanes, none of the others.
struct LaneMasks {
  int32_t lanes[17][16];
  constexpr LaneMasks() : lanes() {
    for (int n = 0; n <= 16; n++) {
      for (int l = 0; l < n; l++) lanes[n][l] = -1;
    }
  }
};
constexpr LaneMasks kLaneMasks;
constexpr const int32_t (&kFirstLanes)[17][16] = kLaneMasks.lanes;

#if !defined(BHVIT_OWN_INDEX)
// What `xor_count` and `and_count` take for the bits of T tokens, [word][token] with rows of `stride` words: the bits, or
// what an instruction set makes of them in `index`.
template <int T>
BHVIT_INLINE const u32* prepared(const u32* bits, long, long, u32*) {
  return bits;
}
template <int T, int step>
BHVIT_INLINE const u32* prepared_plane(const u32* plane, long, u32*) {
  return plane;
}
template <int T>
BHVIT_INLINE const u32* prepared_levels(const u32* planes, long, u32*) {
  return planes;
}
// Tiles of weights, [word][16], as kernels read them.
BHVIT_INLINE void expand_weights(const u32* from, long words, u32* to) {
  __builtin_memcpy(to, from, static_cast<size_t>(words * kLanes) * sizeof *to);
}
#endif

// Kernels take a local copy of their arguments (`a = args`): stores of bits may alias anything whose
// address others have, and would have the compiler read every argument again after each of them.

// The scratch of a kernel with these arguments, in `memory`.
template <class Layout, class Args>
BHVIT_INLINE Layout scratch_of(void* memory, const Args& a) {
  Scratch scratch{static_cast<char*>(memory)};
  return Layout(scratch, a);
}

}  // namespace
}  // namespace bhvit
