// Layer normalisation, and linear layers of bits or floats with the norm after them: `linear` in format/program.py.

#pragma once

#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

constexpr float kNormEps = 1e-5f;  // program.NORM_EPS

// Lane sums of T rows; together, because each alone waits for its last addition.
template <int T>
BHVIT_INLINE void row_sums(const float* v, long channels, f32x16 (&sum)[T]) {
  for (int t = 0; t < T; t++) sum[t] = loadf(v + t * channels);
  for (long c = kLanes; c < channels; c += kLanes) {
    for (int t = 0; t < T; t++) sum[t] = sum[t] + loadf(v + t * channels + c);
  }
}

// Takes from T rows, of which `sum` are the lane sums, their means: v - mean goes to `out`, which may be `v`, and
// 1 / deviation to `inverse`. Channels c to c + 15 of row t lie at index(t, c).
template <int T, class Index>
BHVIT_INLINE void centre_rows(const float* v, long channels, const f32x16 (&sum)[T], float* out, f32x16 (&inverse)[T],
                              Index index) {
  const float count = static_cast<float>(channels);
  f32x16 mean[T], squares[T];
  for (int t = 0; t < T; t++) {
    mean[t] = splatf(sum_lanes(sum[t]) / count);
    squares[t] = splatf(0.0f);
  }
  for (long c = 0; c < channels; c += kLanes) {
    for (int t = 0; t < T; t++) {
      const f32x16 centred = loadf(v + index(t, c)) - mean[t];
      store(out + index(t, c), centred);
      squares[t] = squares[t] + centred * centred;
    }
  }
  for (int t = 0; t < T; t++) inverse[t] = splatf(1.0f / __builtin_sqrtf(sum_lanes(squares[t]) / count + kNormEps));
}

// Of T rows; `out` may be `v`.
template <int T>
BHVIT_INLINE void layer_norms(const float* v, long channels, const float* scale, const float* shift, float* out) {
  f32x16 sum[T], inverse[T];
  row_sums<T>(v, channels, sum);
  centre_rows<T>(v, channels, sum, out, inverse, [&](int t, long c) { return t * channels + c; });
  for (long c = 0; c < channels; c += kLanes) {
    const f32x16 s = loadf(scale + c), b = loadf(shift + c);
    for (int t = 0; t < T; t++) {
      float* at = out + t * channels + c;
      store(at, (loadf(at) * inverse[t]) * s + b);
    }
  }
}

BHVIT_INLINE void layer_norm(const float* v, long channels, const float* scale, const float* shift, float* out) {
  layer_norms<1>(v, channels, scale, shift, out);
}

// Of any number of rows.
BHVIT_INLINE void layer_norm_rows(const float* v, long rows, long channels, const float* scale, const float* shift,
                                  float* out) {
  long row = 0;
  for (; row + 4 <= rows; row += 4) layer_norms<4>(v + row * channels, channels, scale, shift, out + row * channels);
  for (; row < rows; row++) layer_norm(v + row * channels, channels, scale, shift, out + row * channels);
}

// x += v of one row after layer norm.
BHVIT_INLINE void add_normed(const float* v, long channels, const float* scale, const float* shift, float* row,
                             float* x) {
  layer_norm(v, channels, scale, shift, row);
  for (long c = 0; c < channels; c += kLanes) store(x + c, loadf(x + c) + loadf(row + c));
}

void norm(const NormArgs& args, long begin, long end) {
  const NormArgs a = args;
  if (a.layer) {
    const long from = begin * a.channels;
    return layer_norm_rows(a.x + from, end - begin, a.channels, a.scale, a.shift, a.n + from);
  }
  for (long c = 0; c < a.channels; c += kLanes) {
    const f32x16 scale = loadf(a.scale + c), shift = loadf(a.shift + c);
    for (long at = begin * a.channels + c; at < end * a.channels; at += a.channels) {
      store(a.n + at, loadf(a.x + at) * scale + shift);
    }
  }
}

// NextNorm at channels c to c + 15.
struct NextOutputs {
  float* n;
  f32x16 scale, shift;
  BHVIT_INLINE NextOutputs(const NextNorm& next, long c)
      : n(next.n),
        scale(next.n ? loadf(next.scale + c) : splatf(0.0f)),
        shift(next.n ? loadf(next.shift + c) : splatf(0.0f)) {}
};

// Stores `value`, what an op leaves in x, and its norm for the next op.
BHVIT_INLINE void store_and_normalise(float* x, long at, const f32x16& value, const NextOutputs& next) {
  store(x + at, value);
  if (next.n) store(next.n + at, value * next.scale + next.shift);
}

// Sets 16 channels' bits in a list of 32-bit words [word][token] of T tokens.
template <int T>
BHVIT_INLINE void set_bits(u32* bits, int t, long c, u32 mask) {
  reinterpret_cast<u16*>(bits + c / kWordBits * T + t)[c / kLanes % 2] = static_cast<uint16_t>(mask);
}

// Norm of T rows of products, which `products(o, y)` makes for outputs o to o + 15: to `out`, [output/16][row][16].
template <int T, class Products>
BHVIT_INLINE void norm_products_of(const Linear& l, float* out, Products products) {
  const auto index = [](int t, long o) { return o * T + t * kLanes; };
  if (!l.weight_scale) {
    for (long o = 0; o < l.outputs; o += kLanes) {
      const f32x16 scale = loadf(l.scale + o), shift = loadf(l.shift + o);
      f32x16 y[T];
      products(o, y);
      for (int t = 0; t < T; t++) store(out + index(t, o), y[t] * scale + shift);
    }
    return;
  }
  f32x16 sum[T], inverse[T];
  for (int t = 0; t < T; t++) sum[t] = splatf(-0.0f);  // changes nothing that is added to it
  for (long o = 0; o < l.outputs; o += kLanes) {
    const f32x16 scale = loadf(l.weight_scale + o);
    f32x16 y[T];
    products(o, y);
    for (int t = 0; t < T; t++) {
      const f32x16 v = y[t] * scale;
      store(out + index(t, o), v);
      sum[t] = sum[t] + v;
    }
  }
  centre_rows<T>(out, l.outputs, sum, out, inverse, index);
  for (long o = 0; o < l.outputs; o += kLanes) {
    const f32x16 scale = loadf(l.scale + o), shift = loadf(l.shift + o);
    for (int t = 0; t < T; t++) store(out + index(t, o), (loadf(out + index(t, o)) * inverse[t]) * scale + shift);
  }
}

// BHVIT_EACH_PRODUCT(T, start, rows, stride, weight, words) { … t … product … }; runs its body for the products of T rows,
// as `prepared` gives them, with 16 outputs: `start` and the set bits of (row XOR weight), as floats. It is a loop here,
// as GCC keeps what a closure changes in memory: AVX2 took 15 % longer.
#if !defined(BHVIT_OWN_INDEX)
#define BHVIT_EACH_PRODUCT(T, start, rows, stride, weight, words) \
  i32x16 counts[T];                                               \
  for (int t = 0; t < T; t++) counts[t] = splati(start);          \
  xor_count<T>(counts, rows, stride, weight, words);              \
  for (int t = 0; t < T; t++)                                     \
    if (const f32x16 product = to_float(counts[t]); true)
#endif

// Products of the signs of T rows, as `prepared` gives them, with outputs o to o + 15.
template <int T>
BHVIT_INLINE void multiply_bits(const Linear& l, const u32* rows, long o, f32x16 (&y)[T]) {
  const long words = l.inputs / kWordBits;
  BHVIT_EACH_PRODUCT(T, static_cast<int32_t>(-l.inputs / 2), rows, T, weight_tile(l.bits, o, words), words) {
    y[t] = product;
  };
}

template <int T>
BHVIT_INLINE void pack_rows(const Linear& l, const float* rows, u32* bits) {
  for (int t = 0; t < T; t++) {
    for (long k = 0; k < l.inputs; k += kLanes) {
      set_bits<T>(bits, t, k, mask_ge(loadf(rows + t * l.inputs + k), loadf(l.threshold + k)));
    }
  }
}

// `linear` of T rows to s.out. Not inlined: all kernels that take any kind of layer share one copy.
template <int T>
BHVIT_NOINLINE void linear_of_bits(const Linear& l, const u32* bits, const LinearScratch& s) {
  const u32* const rows = prepared<T>(bits, T, l.inputs / kWordBits, s.index);
  norm_products_of<T>(l, s.out, [&](long o, f32x16(&y)[T]) { multiply_bits<T>(l, rows, o, y); });
}

template <int T>
BHVIT_NOINLINE void linear_of_rows(const Linear& l, const float* rows, const LinearScratch& s) {
  const long inputs = l.inputs;
  if (l.bits) {
    pack_rows<T>(l, rows, s.bits);
    return linear_of_bits<T>(l, s.bits, s);
  }
  for (int t = 0; t < T; t++) {
    for (long k = 0; k < inputs; k += kLanes) {
      const f32x16 v = loadf(rows + t * inputs + k), threshold = loadf(l.threshold + k);
      store(s.activations + t * inputs + k, l.signs ? sign_ge(v, threshold) : v - threshold);
    }
  }
  norm_products_of<T>(l, s.out, [&](long o, f32x16(&y)[T]) {
    for (int t = 0; t < T; t++) y[t] = splatf(0.0f);
    const float* weight = l.weight + o * inputs;
    for (long k = 0; k < inputs; k++, weight += kLanes) {
      const f32x16 w = loadf(weight);
      for (int t = 0; t < T; t++) y[t] = y[t] + splatf(s.activations[t * inputs + k]) * w;
    }
  });
}

// Calls epilogue(o, y) with outputs o to o + 15 of T rows.
template <int T, class Epilogue>
BHVIT_INLINE void for_outputs(const Linear& l, const LinearScratch& s, Epilogue epilogue) {
  for (long o = 0; o < l.outputs; o += kLanes) {
    f32x16 y[T];
    for (int t = 0; t < T; t++) y[t] = loadf(s.out + o * T + t * kLanes);
    epilogue(o, y);
  }
}

// `linear` of T rows, [token][inputs], of any kind of layer.
template <int T, class Epilogue>
BHVIT_INLINE void linear(const Linear& l, const float* rows, const LinearScratch& s, Epilogue epilogue) {
  linear_of_rows<T>(l, rows, s);
  for_outputs<T>(l, s, epilogue);
}

// The same of a layer of bits with batch norm, whose outputs stay in registers.
template <int T, class Epilogue>
BHVIT_INLINE void fused_linear(const Linear& l, const float* rows, const LinearScratch& s, Epilogue epilogue) {
  pack_rows<T>(l, rows, s.bits);
  const u32* const signs = prepared<T>(s.bits, T, l.inputs / kWordBits, s.index);
  for (long o = 0; o < l.outputs; o += kLanes) {
    const f32x16 scale = loadf(l.scale + o), shift = loadf(l.shift + o);
    f32x16 y[T];
    multiply_bits<T>(l, signs, o, y);
    for (int t = 0; t < T; t++) y[t] = y[t] * scale + shift;
    epilogue(o, y);
  }
}

}  // namespace
}  // namespace bhvit
