// The last part of every instruction set's file: the ops over that file's primitives, and their table.
//
// Before including it a file defines, in the unnamed namespace of bhvit:
//   kBlock                                  tokens a block, at most kMaxBlock; as many as registers hold
//   u32 mask_ge(f32x16 a, f32x16 b)         bit l set where a[l] >= b[l]
//   u32 mask_bit<k>(i32x16 v)               bit l = bit k of v[l]
//   f32x16 gather(const float*, i32x16)     from[index[l]]
//   xor_count<T>(acc, bits, stride, weight, words)
//       acc[t][l] += set bits of bits[w*stride + t] XOR weight[w*16 + l], over all w;
//       `weight` lies on 64 bytes
//   and_count<T, step>(acc, bits, stride, weight, words)   the same of AND, token t at bits[w*stride + step*t]
//   long peak(long rounds, int32_t* sink)   see KernelTable

#pragma once

#include "kernels/kernels.h"
#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

#if !defined(BHVIT_WEB)  // for tests and benchmarks, which pages have not
template <class Count>
BHVIT_INLINE void count_all(const uint32_t* activations, long tokens, long words, const uint32_t* weight, long tiles,
                            int32_t* out, Count count) {
  for_few_blocks<kBlock>(0, tokens, [&]<int T>(long first) {
    constexpr long kChunk = 64;
    for (long tile = 0; tile < tiles; tile++) {
      i32x16 acc[T];
      for (int t = 0; t < T; t++) acc[t] = splati(0);
      for (long start = 0; start < words; start += kChunk) {
        const long part = words - start < kChunk ? words - start : kChunk;
        u32 bits[kChunk * T];
        for (long w = 0; w < part; w++) {
          for (int t = 0; t < T; t++) bits[w * T + t] = activations[(first + t) * words + start + w];
        }
        u32 index[kChunk * kMaxBlock * kIndexWords + 1];
        const u32* from = weight + (tile * words + start) * kLanes;
        if constexpr (kWeightWords == 1) {
          count.template operator()<T>(acc, prepared<T>(bits, T, part, index), from, part);
        } else {
          u32 expanded[kChunk * kLanes * kWeightWords];
          expand_weights(from, part, expanded);
          count.template operator()<T>(acc, prepared<T>(bits, T, part, index), expanded, part);
        }
      }
      for (int t = 0; t < T; t++) store(out + ((first + t) * tiles + tile) * kLanes, acc[t]);
    }
  });
}

void count_xor(const uint32_t* activations, long tokens, long words, const uint32_t* weight, long tiles, int32_t* out) {
  count_all(activations, tokens, words, weight, tiles, out,
            []<int T>(i32x16(&acc)[T], const u32* bits, const u32* tile, long part) {
              xor_count<T>(acc, bits, T, tile, part);
            });
}

void count_and(const uint32_t* activations, long tokens, long words, const uint32_t* weight, long tiles, int32_t* out) {
  count_all(activations, tokens, words, weight, tiles, out,
            []<int T>(i32x16(&acc)[T], const u32* bits, const u32* tile, long part) {
              and_count<T, 1>(acc, bits, T, tile, part);
            });
}

long float_peak(long rounds, float* sink) {
  constexpr int kFloatChains = BHVIT_NATIVE_LANES == 16 ? 24 : 12;  // hide the latency of both, leave two registers
  NativeF values[kFloatChains], factor = splat<NativeF>(sink[0]);
  const NativeF summand = splat<NativeF>(sink[1]);
  for (int i = 0; i < kFloatChains; i++) values[i] = splat<NativeF>(sink[2]);
  for (long round = 0; round < rounds; round++) {
    asm volatile("" : "+" BHVIT_REGISTER(factor));
    for (int i = 0; i < kFloatChains; i++) values[i] = values[i] * factor + summand;
  }
  for (int i = 1; i < kFloatChains; i++) values[0] = values[0] + values[i];
  store(sink + 4, values[0]);
  return rounds * kFloatChains * BHVIT_NATIVE_LANES;
}
#endif

void expand_all(const uint32_t* weights, long words, uint32_t* out) { expand_weights(weights, words, out); }

constexpr KernelTable table(const char* name) {
  return {.name = name,
          .ops = BHVIT_OP_KERNELS,
          .expand_weights = kWeightWords == 1 ? nullptr : expand_all,
          .norm = norm,
#if !defined(BHVIT_WEB)
          .count_xor = count_xor,
          .count_and = count_and,
          .peak = peak,
          .float_peak = float_peak
#endif
  };
}

}  // namespace
}  // namespace bhvit
