// Layer normalisation, and linear layers of bits or numbers with the norm after them: `linear` in ops.py.

#pragma once

#include "vectors_inl.h"

namespace bhvit {
namespace {

constexpr float kNormEps = 1e-5f;  // ops.NORM_EPS

// Of one row; `out` may be `v`.
BHVIT_INLINE void layer_norm(const float* v, long channels, const float* scale, const float* shift, float* out) {
  const float count = static_cast<float>(channels);
  f32x16 sum = loadf(v);
  for (long c = kLanes; c < channels; c += kLanes) sum = sum + loadf(v + c);
  const f32x16 mean = splatf(sum_lanes(sum) / count);
  f32x16 squares = splatf(0.0f);
  for (long c = 0; c < channels; c += kLanes) {
    const f32x16 centred = loadf(v + c) - mean;
    squares = squares + centred * centred;
  }
  const f32x16 inverse = splatf(1.0f / __builtin_sqrtf(sum_lanes(squares) / count + kNormEps));
  for (long c = 0; c < channels; c += kLanes) {
    store(out + c, ((loadf(v + c) - mean) * inverse) * loadf(scale + c) + loadf(shift + c));
  }
}

// Sets 16 channels' bits in a list of 32-bit words [word][token] of T tokens.
template <int T>
BHVIT_INLINE void set_bits(u32* bits, int t, long c, u32 mask) {
  reinterpret_cast<u16*>(bits + c / kWordBits * T + t)[c / kLanes % 2] = static_cast<uint16_t>(mask);
}

struct LinearScratch {
  u32* bits;
  float *activations, *out;
  LinearScratch(Scratch& scratch, long inputs, long outputs)
      : bits(scratch.take<u32>(kMaxBlock * inputs / kWordBits)),
        activations(scratch.take<float>(kMaxBlock * inputs)),
        out(scratch.take<float>(kMaxBlock * outputs)) {}
};

// `linear` of T rows, [token][inputs]. epilogue(o, y) is given outputs o to o + 15 of all rows.
template <int T, class Epilogue>
BHVIT_INLINE void linear(const Linear& l, const float* rows, const LinearScratch& s, Epilogue epilogue) {
  const long inputs = l.inputs, outputs = l.outputs, words = inputs / kWordBits;
  if (l.bits) {
    for (int t = 0; t < T; t++) {
      for (long k = 0; k < inputs; k += kLanes) {
        set_bits<T>(s.bits, t, k, mask_ge(loadf(rows + t * inputs + k), loadf(l.threshold + k)));
      }
    }
    for (long o = 0; o < outputs; o += kLanes) {
      i32x16 acc[T];
      for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-inputs / 2));
      xor_count<T>(acc, s.bits, T, l.bits + o * words, words);
      if (l.weight_scale) {
        for (int t = 0; t < T; t++) store(s.out + t * outputs + o, to_float(acc[t]) * loadf(l.weight_scale + o));
      } else {
        const f32x16 scale = loadf(l.scale + o), shift = loadf(l.shift + o);
        f32x16 y[T];
        for (int t = 0; t < T; t++) y[t] = to_float(acc[t]) * scale + shift;
        epilogue(o, y);
      }
    }
    if (!l.weight_scale) return;
  } else {
    for (int t = 0; t < T; t++) {
      for (long k = 0; k < inputs; k += kLanes) {
        const f32x16 v = loadf(rows + t * inputs + k), threshold = loadf(l.threshold + k);
        store(s.activations + t * inputs + k, l.signs ? sign_ge(v, threshold) : v - threshold);
      }
    }
    for (long o = 0; o < outputs; o += kLanes) {
      f32x16 y[T];
      for (int t = 0; t < T; t++) y[t] = splatf(0.0f);
      const float* weight = l.weight + o * inputs;
      for (long k = 0; k < inputs; k++, weight += kLanes) {
        const f32x16 w = loadf(weight);
        for (int t = 0; t < T; t++) y[t] = y[t] + splatf(s.activations[t * inputs + k]) * w;
      }
      for (int t = 0; t < T; t++) {
        const f32x16 value = l.weight_scale ? y[t] * loadf(l.weight_scale + o)
                                            : y[t] * loadf(l.scale + o) + loadf(l.shift + o);
        store(s.out + t * outputs + o, value);
      }
    }
  }
  if (l.weight_scale) {
    for (int t = 0; t < T; t++) {
      layer_norm(s.out + t * outputs, outputs, l.scale, l.shift, s.out + t * outputs);
    }
  }
  for (long o = 0; o < outputs; o += kLanes) {
    f32x16 y[T];
    for (int t = 0; t < T; t++) y[t] = loadf(s.out + t * outputs + o);
    epilogue(o, y);
  }
}

}  // namespace
}  // namespace bhvit
