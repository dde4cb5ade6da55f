// Binary weights from latent ones.

#pragma once

#include <cmath>

#include "sums_inl.h"

namespace bhvit::training {
namespace {

// Sums in T over so many numbers are added up in double.
constexpr long kRun = 256;

template <class T, class Value>
double sum_of(long count, const Value& value) {
  double total = 0;
  for (long first = 0; first < count; first += kRun) {
    const long last = std::min(count, first + kRun);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = first; i < last; i++) sum += value(i);
    total += sum;
  }
  return total;
}

template <class T>
void binarise(const Shape& shape, const T* latent, const T* centre, T* out) {
  const long inputs = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T* from = latent + row * inputs;
      T* to = out + row * inputs;
      const T middle = centre ? centre[row] : T(0);
      const T scale = static_cast<T>(sum_of<T>(inputs, [from](long i) { return std::abs(from[i]); }) / inputs);
      BHVIT_SIMD_LOOP
      for (long i = 0; i < inputs; i++) to[i] = from[i] - middle >= 0 ? scale : -scale;
    }
  });
}

template <class T>
void binarise_backward(const Shape& shape, const T* latent, const T* centre, const T* grad, T* out) {
  const long inputs = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const T *from = latent + row * inputs, *g = grad + row * inputs;
      T* to = out + row * inputs;
      const T middle = centre ? centre[row] : T(0);
      BHVIT_SIMD_LOOP
      for (long i = 0; i < inputs; i++) to[i] = g[i] * (std::abs(from[i] - middle) <= 1 ? T(1) : T(0));
      if (!centre) continue;
      const T mean = static_cast<T>(sum_of<T>(inputs, [to](long i) { return to[i]; }) / inputs);
      BHVIT_SIMD_LOOP
      for (long i = 0; i < inputs; i++) to[i] -= mean;
    }
  });
}

}  // namespace
}  // namespace bhvit::training
