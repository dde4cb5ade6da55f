// Batch normalisation and signs.

#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "training/sums_inl.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bhvit::training {
namespace {

// From sums (2, channels) of the distances of `rows` floats from `around`, and of their squares.
template <class T>
void finish_statistics(long rows, long channels, const double* sums, const T* around, const Statistics<T>& s) {
  const double unbiased = static_cast<double>(rows) / (rows - 1);
  for (long c = 0; c < channels; c++) {
    const double d = sums[c] / rows, variance = std::max(0.0, sums[channels + c] / rows - d * d);
    s.mean[c] = static_cast<T>(around[c] + d);
    s.inverse[c] = static_cast<T>(1 / std::sqrt(variance + s.epsilon));
    s.running_mean[c] += static_cast<T>(s.momentum * (s.mean[c] - s.running_mean[c]));
    s.running_variance[c] += static_cast<T>(s.momentum * (variance * unbiased - s.running_variance[c]));
  }
}

// To sums (2, channels): the distances of floats from `around`, so that squares of a large mean do not drown the
// variance, and their squares.
template <class T>
inline void add_distances(const T* from, const T* around, long channels, T* sums) {
  T *first = sums, *second = sums + channels;
  BHVIT_SIMD_LOOP
  for (long c = 0; c < channels; c++) {
    const T d = from[c] - around[c];
    first[c] += d;
    second[c] += d * d;
  }
}

template <class T>
void statistics(const Shape& shape, const T* x, const Statistics<T>& s) {
  const long channels = shape.channels;
  const Buffer<double> totals = sum_rows<2, T>(shape, [&](long begin, long end, T* sums) {
    for (long row = begin; row < end; row++) add_distances(x + row * channels, x, channels, sums);
  });
  finish_statistics(shape.rows, channels, totals.data(), x, s);
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
void signs(const Shape& shape, const T* x, const T* learnable_bias, bool binary, T* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T* from = x + row * channels;
      T* to = out + row * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) to[c] = sign_of(from[c] + learnable_bias[c], binary);
    }
  });
}

// Bit k is the sign of x[k] + learnable_bias[k], k < 32.
template <class T>
inline uint32_t sign_word(const T* x, const T* learnable_bias) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto half = [=](int k) -> uint32_t {
      const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(x + k), _mm512_loadu_ps(learnable_bias + k));
      return _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_GE_OQ);
    };
    return half(0) | half(16) << 16;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto byte = [=](int k) -> uint32_t {
      const __m256 sum = _mm256_add_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(learnable_bias + k));
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
  for (int k = 0; k < 32; k++) word |= x[k] + learnable_bias[k] >= 0 ? bit[k] : 0;
  return word;
}

// Bits of `count` signs of x + learnable_bias, 32 to a word.
template <class T>
void pack_signs(const T* x, const T* learnable_bias, long count, uint32_t* out) {
  for (long w = 0; w < count / 32; w++) out[w] = sign_word(x + 32 * w, learnable_bias + 32 * w);
}

template <class T>
void pack_bits(const Shape& shape, const T* x, const T* learnable_bias, uint32_t* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++)
      pack_signs(x + row * channels, learnable_bias, channels, out + row * channels / 32);
  });
}

template <class T>
void unpack_bits(const Shape& shape, const uint32_t* bits, T* out) {
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

// Words of sixteen outputs side by side, from rows of bits, on a boundary of 64 bytes.
class Tiles {
 public:
  static constexpr long kLanes = 16;  // bits.LANES
  Tiles(const uint32_t* bits, long outputs, long words) : storage_(outputs * words + kLanes), tiles_(storage_.data()) {
    while (reinterpret_cast<uintptr_t>(tiles_) % 64) tiles_++;
    for (long o = 0; o < outputs; o++) {
      uint32_t* to = tiles_ + o / kLanes * words * kLanes + o % kLanes;
      for (long w = 0; w < words; w++) to[w * kLanes] = bits[o * words + w];
    }
  }
  const uint32_t* data() const { return tiles_; }

 private:
  Buffer<uint32_t> storage_;
  uint32_t* tiles_;
};

// Counts that binary_linear makes at a time, whole rows of them, so that they stay in the second cache.
constexpr long kCounts = 32768;

template <class T>
void binary_linear(const Shape& shape, const uint32_t* bits, const uint32_t* weights, const T* scale, long outputs,
                   const Statistics<T>& statistics, T* out) {
  const long words = shape.channels / 32, together = std::clamp(kCounts / outputs, 1L, kRows);
  const Tiles tiles(weights, outputs, words);
  const int32_t all = static_cast<int32_t>(shape.channels);
  const auto multiply = [&](long row, long count, int32_t* counts, T* to) {
    count_differences(bits + row * words, count, words, tiles.data(), outputs / Tiles::kLanes, counts);
    for (long r = 0; r < count; r++, counts += outputs, to += outputs) {
      BHVIT_SIMD_LOOP
      for (long o = 0; o < outputs; o++) to[o] = static_cast<T>(all - 2 * counts[o]) * scale[o];
    }
  };
  Buffer<int32_t> counts(outputs);
  Buffer<T> around(outputs);
  multiply(0, 1, counts.data(), around.data());
  const Shape products{shape.rows, outputs, shape.threads};
  const Buffer<double> totals = sum_rows<2, T>(products, [&](long begin, long end, T* sums) {
    Buffer<int32_t> block(together * outputs);
    for (long row = begin; row < end; row += together) {
      const long last = std::min(end, row + together);
      multiply(row, last - row, block.data(), out + row * outputs);
      for (long r = row; r < last; r++) add_distances(out + r * outputs, around.data(), outputs, sums);
    }
  });
  finish_statistics(shape.rows, outputs, totals.data(), around.data(), statistics);
}

template <class T>
void signs_backward(const Shape& shape, const T* x, const T* learnable_bias, bool binary, const T* grad, bool add,
                    T* x_grad, T* learnable_bias_grad) {
  const long channels = shape.channels;
  const Buffer<double> totals = sum_rows<1, T>(shape, [&](long begin, long end, T* sums) {
    for (long row = begin; row < end; row++) {
      const T *from = x + row * channels, *g = grad + row * channels;
      T* to = x_grad + row * channels;
      if (add) {
        BHVIT_SIMD_LOOP
        for (long c = 0; c < channels; c++) {
          const T d = g[c] * sign_slope(from[c] + learnable_bias[c], binary);
          sums[c] += d;
          to[c] += d;
        }
      } else {
        BHVIT_SIMD_LOOP
        for (long c = 0; c < channels; c++) {
          const T d = g[c] * sign_slope(from[c] + learnable_bias[c], binary);
          sums[c] += d;
          to[c] = d;
        }
      }
    }
  });
  store(totals, 0, channels, learnable_bias_grad);
}

}  // namespace
}  // namespace bhvit::training
