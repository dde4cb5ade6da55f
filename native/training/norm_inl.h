// Batch normalisation and signs.

#pragma once

#include <cmath>

#include "sums_inl.h"

namespace bhvit::training {
namespace {

template <class T>
void moments(const Shape& shape, const T* x, T* mean, T* variance) {
  // Around the first row's values, so that squares of a large mean do not drown the variance.
  const long channels = shape.channels;
  const std::vector<double> totals = sum_rows<2, T>(shape, [&](long begin, long end, T* sums) {
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
  std::vector<T> constant(channels), linear(channels), factor(channels);
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
  const std::vector<double> totals = sum_rows<2, T>(shape, [&](long begin, long end, T* sums) {
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

template <class T>
void signs_backward(const Shape& shape, const T* x, const T* move, bool binary, const T* grad, T* x_grad,
                    T* move_grad) {
  const long channels = shape.channels;
  const std::vector<double> totals = sum_rows<1, T>(shape, [&](long begin, long end, T* sums) {
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
