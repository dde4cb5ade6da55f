// Loops over rows in tasks, and sums of channels whose order does not depend on threads.

#pragma once

#include <algorithm>
#include <cstdlib>

#include "training/kernels.h"

namespace bhvit::training {
namespace {

// Zeros of a float type. Not std::vector: its functions, compiled for one instruction set, would be linked into code
// for another. Without enough memory the process ends.
template <class T>
class Buffer {
 public:
  explicit Buffer(long count) : data_(static_cast<T*>(std::calloc(count + 1, sizeof(T)))), count_(count) {
    if (!data_) std::abort();
  }
  Buffer(Buffer&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  ~Buffer() { std::free(data_); }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](long index) { return data_[index]; }
  const T& operator[](long index) const { return data_[index]; }
  long size() const { return count_; }

 private:
  T* data_;
  long count_;
};

#define BHVIT_SIMD_LOOP _Pragma("omp simd")

// body(first row, row after the last) for every task.
template <class Body>
void for_rows(const Shape& shape, const Body& body) {
  const long tasks = (shape.rows + kRows - 1) / kRows;
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long task = 0; task < tasks; task++) body(task * kRows, std::min(shape.rows, (task + 1) * kRows));
}

// totals[i]: the sum of partial[part * count + i] over `parts`, in order, in double.
template <class T>
Buffer<double> total(const Buffer<T>& partial, long parts, long count) {
  Buffer<double> totals(count);
  for (long part = 0; part < parts; part++) {
    const T* from = partial.data() + part * count;
    double* to = totals.data();
    BHVIT_SIMD_LOOP
    for (long i = 0; i < count; i++) to[i] += from[i];
  }
  return totals;
}

// body(first row, row after the last, sums) for every task, sums being K * channels zeros that it adds to; then
// totals[k * channels + c] in double.
template <int K, class T, class Body>
Buffer<double> sum_rows(const Shape& shape, const Body& body) {
  const long tasks = (shape.rows + kRows - 1) / kRows, count = K * shape.channels;
  Buffer<T> partial(tasks * count);
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long task = 0; task < tasks; task++) {
    body(task * kRows, std::min(shape.rows, (task + 1) * kRows), partial.data() + task * count);
  }
  return total(partial, tasks, count);
}

template <class T>
void store(const Buffer<double>& totals, long index, long channels, T* to) {
  if (!to) return;
  for (long c = 0; c < channels; c++) to[c] = static_cast<T>(totals[index * channels + c]);
}

}  // namespace
}  // namespace bhvit::training
