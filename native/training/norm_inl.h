// Batch normalisation and signs.

#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "sums_inl.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bhvit::training {
namespace {

template <class T>
void moments(const Shape& shape, const T* x, T* mean, T* variance) {
  // Around the first row's values, so that squares of a large mean do not drown the variance.
  const long channels = shape.channels;
  const Buffer<double> totals = sum_rows<2, T>(shape, [&](long begin, long end, T* sums) {
    T *first = sums, *second = sums + channels;
    for (long row = begin; row < end; row++) {
      const T* from = x + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        const T d = from[c] - x[c];
        first[c] += d;
        second[c] += d * d;
      }
    }
  });
  for (long c = 0; c < channels; c++) {
    const double d = totals[c] / shape.rows;
    mean[c] = static_cast<T>(x[c] + d);
    variance[c] = static_cast<T>(std::max(0.0, totals[channels + c] / shape.rows - d * d));
  }
}

template <class T>
void normalise(const Shape& shape, const T* x, const Norm<T>& norm, T* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T* from = x + row * channels;
      T* to = out + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        to[c] = (from[c] - norm.mean[c]) * (norm.inverse[c] * norm.scale[c]) + norm.offset[c];
      }
    }
  });
}

// The second half of its backward pass: `grad` and its sums (offset, then scale) -> x_grad, which may be `grad`.
template <class T>
void normalise_finish(const Shape& shape, const T* x, const Norm<T>& norm, const double* sums, const T* grad,
                      T* x_grad) {
  const long channels = shape.channels;
  Buffer<T> constant(channels), linear(channels), factor(channels);
  for (long c = 0; c < channels; c++) {
    factor[c] = norm.inverse[c] * norm.scale[c];
    constant[c] = static_cast<T>(sums[c] / shape.rows);
    linear[c] = static_cast<T>(norm.inverse[c] * sums[channels + c] / shape.rows);
  }
  const T *k = constant.data(), *l = linear.data(), *f = factor.data();
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T *from = x + row * channels, *g = grad + row * channels;
      T* to = x_grad + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) to[c] = f[c] * (g[c] - k[c] - (from[c] - norm.mean[c]) * l[c]);
    }
  });
}

template <class T>
void normalise_backward(const Shape& shape, const T* x, const Norm<T>& norm, const T* grad, T* x_grad, T* scale,
                        T* offset) {
  const long channels = shape.channels;
  const Buffer<double> totals = sum_rows<2, T>(shape, [&](long begin, long end, T* sums) {
    T *plain = sums, *weighted = sums + channels;
    for (long row = begin; row < end; row++) {
      const T *from = x + row * channels, *g = grad + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        plain[c] += g[c];
        weighted[c] += g[c] * ((from[c] - norm.mean[c]) * norm.inverse[c]);
      }
    }
  });
  store(totals, 0, channels, offset);
  store(totals, 1, channels, scale);
  normalise_finish(shape, x, norm, totals.data(), grad, x_grad);
}

template <class T>
inline T sign_of(T x, bool binary) {
  return binary ? (x >= 0 ? T(1) : T(-1)) : x;
}

// Of Bi-Real Net: 2 - 2|x| inside [-1, 1].
template <class T>
inline T sign_slope(T x, bool binary) {
  const T inside = T(2) - T(2) * std::abs(x);
  return binary ? (inside > 0 ? inside : T(0)) : T(1);
}

template <class T>
void signs(const Shape& shape, const T* x, const T* move, bool binary, T* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T* from = x + row * channels;
      T* to = out + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) to[c] = sign_of(from[c] + move[c], binary);
    }
  });
}

// Bit k is the sign of x[k] + move[k], k < 32.
template <class T>
inline uint32_t sign_word(const T* x, const T* move) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto half = [=](int k) -> uint32_t {
      const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(x + k), _mm512_loadu_ps(move + k));
      return _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_GE_OQ);
    };
    return half(0) | half(16) << 16;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto byte = [=](int k) -> uint32_t {
      const __m256 sum = _mm256_add_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(move + k));
      return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(sum, _mm256_setzero_ps(), _CMP_GE_OQ)));
    };
    return byte(0) | byte(8) << 8 | byte(16) << 16 | byte(24) << 24;
  }
#endif
  static constexpr auto bit = [] {
    std::array<uint32_t, 32> powers{};
    for (int k = 0; k < 32; k++) powers[k] = 1u << k;
    return powers;
  }();
  uint32_t word = 0;
#pragma omp simd reduction(| : word)
  for (int k = 0; k < 32; k++) word |= x[k] + move[k] >= 0 ? bit[k] : 0;
  return word;
}

// Bits of `count` signs of x + move, 32 to a word.
template <class T>
void pack_signs(const T* x, const T* move, long count, uint32_t* out) {
  for (long w = 0; w < count / 32; w++) out[w] = sign_word(x + 32 * w, move + 32 * w);
}

template <class T>
void bits(const Shape& shape, const T* x, const T* move, uint32_t* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) pack_signs(x + row * channels, move, channels, out + row * channels / 32);
  });
}

template <class T>
void numbers(const Shape& shape, const uint32_t* bits, T* out) {
  const long words = shape.channels / 32;
  for_rows(shape, [&](long begin, long end) {
    for (long w = begin * words; w < end * words; w++) {
      const uint32_t word = bits[w];
      T* to = out + 32 * w;
      BHVIT_SIMD_LOOP
      for (int k = 0; k < 32; k++) to[k] = word >> k & 1 ? T(1) : T(-1);
    }
  });
}

template <class T>
void binary_linear(const Shape& shape, const uint32_t* bits, const T* weights, long outputs, T* out) {
  constexpr long lanes = 16;  // bits.LANES
  const long inputs = shape.channels, words = inputs / 32, tiles = outputs / lanes;
  // Rows of weights as bits, then tiles: word w of sixteen outputs side by side.
  const Buffer<T> no_move(inputs);
  Buffer<uint32_t> row(words);
  Buffer<T> scales(outputs);
  Buffer<uint32_t> storage(outputs * words + lanes);
  uint32_t* tiled = storage.data();
  while (reinterpret_cast<uintptr_t>(tiled) % 64) tiled++;
  for (long o = 0; o < outputs; o++) {
    pack_signs(weights + o * inputs, no_move.data(), inputs, row.data());
    scales[o] = std::abs(weights[o * inputs]);
    for (long w = 0; w < words; w++) tiled[(o / lanes * words + w) * lanes + o % lanes] = row[w];
  }
  for_rows(shape, [&](long begin, long end) {
    Buffer<int32_t> counts((end - begin) * outputs);
    count_differences(bits + begin * words, end - begin, words, tiled, tiles, counts.data());
    for (long r = 0; r < end - begin; r++) {
      const int32_t* from = counts.data() + r * outputs;
      const T* scale = scales.data();
      T* to = out + (begin + r) * outputs;
      const int32_t all = static_cast<int32_t>(inputs);
      BHVIT_SIMD_LOOP
      for (long o = 0; o < outputs; o++) to[o] = static_cast<T>(all - 2 * from[o]) * scale[o];
    }
  });
}

template <class T>
void signs_backward(const Shape& shape, const T* x, const T* move, bool binary, const T* grad, T* x_grad,
                    T* move_grad) {
  const long channels = shape.channels;
  const Buffer<double> totals = sum_rows<1, T>(shape, [&](long begin, long end, T* sums) {
    for (long row = begin; row < end; row++) {
      const T *from = x + row * channels, *g = grad + row * channels;
      T* to = x_grad + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        const T d = g[c] * sign_slope(from[c] + move[c], binary);
        sums[c] += d;
        to[c] = d;
      }
    }
  });
  store(totals, 0, channels, move_grad);
}

}  // namespace
}  // namespace bhvit::training
