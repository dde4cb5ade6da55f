// Binary weights from latent ones.

#pragma once

#include <cmath>

#include "training/norm_inl.h"

namespace bhvit::training {
namespace {

// Sums in T over so many floats are added up in double.
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
T mean_magnitude(const T* from, long count) {
  return static_cast<T>(sum_of<T>(count, [from](long i) { return std::abs(from[i]); }) / count);
}

// body(row) for every row: rows of weights are few and long.
template <class Body>
void for_each_row(const Shape& shape, const Body& body) {
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long row = 0; row < shape.rows; row++) body(row);
}

template <class T>
void binarise(const Shape& shape, const T* latent, const T* centre, T* out) {
  const long inputs = shape.channels;
  for_each_row(shape, [&](long row) {
    const T* from = latent + row * inputs;
    T* to = out + row * inputs;
    const T middle = centre ? centre[row] : T(0), scale = mean_magnitude(from, inputs);
    BHVIT_SIMD_LOOP
    for (long i = 0; i < inputs; i++) to[i] = from[i] - middle >= 0 ? scale : -scale;
  });
}

template <class T>
void weight_bits(const Shape& shape, const T* latent, const T* centre, uint32_t* bits, T* scale) {
  const long inputs = shape.channels, words = inputs / 32;
  for_each_row(shape, [&](long row) {
    const T* from = latent + row * inputs;
    T shift[32];
    std::fill(shift, shift + 32, centre ? -centre[row] : T(0));
    for (long w = 0; w < words; w++) bits[row * words + w] = sign_word(from + 32 * w, shift);
    scale[row] = centre ? mean_magnitude(from, inputs) : std::abs(from[0]);
  });
}

template <class T>
void binarise_backward(const Shape& shape, const T* latent, const T* centre, const T* grad, T* out) {
  const long inputs = shape.channels;
  for_each_row(shape, [&](long row) {
    const T *from = latent + row * inputs, *g = grad + row * inputs;
    T* to = out + row * inputs;
    const T middle = centre ? centre[row] : T(0);
    BHVIT_SIMD_LOOP
    for (long i = 0; i < inputs; i++) to[i] = g[i] * (std::abs(from[i] - middle) <= 1 ? T(1) : T(0));
    if (!centre) return;
    const T mean = static_cast<T>(sum_of<T>(inputs, [to](long i) { return to[i]; }) / inputs);
    BHVIT_SIMD_LOOP
    for (long i = 0; i < inputs; i++) to[i] -= mean;
  });
}

}  // namespace
}  // namespace bhvit::training
