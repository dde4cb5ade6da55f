// Loops over rows in tasks, and sums of channels whose order does not depend on threads.

#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace bhvit::training {
namespace {

#define BHVIT_SIMD_LOOP _Pragma("omp simd")

// body(first row, row after the last) for every task.
template <class Body>
void for_rows(const Shape& shape, const Body& body) {
  const long tasks = (shape.rows + kRows - 1) / kRows;
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long task = 0; task < tasks; task++) body(task * kRows, std::min(shape.rows, (task + 1) * kRows));
}

// body(first row, row after the last, sums) for every task, sums being K * channels zeros that it adds to; then
// totals[k * channels + c] in double.
template <int K, class T, class Body>
std::vector<double> sum_rows(const Shape& shape, const Body& body) {
  const long tasks = (shape.rows + kRows - 1) / kRows, count = K * shape.channels;
  std::vector<T> partial(tasks * count);
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long task = 0; task < tasks; task++) {
    body(task * kRows, std::min(shape.rows, (task + 1) * kRows), partial.data() + task * count);
  }
  std::vector<double> totals(count);
  for (long task = 0; task < tasks; task++) {
    const T* from = partial.data() + task * count;
    double* to = totals.data();
    BHVIT_SIMD_LOOP
    for (long i = 0; i < count; i++) to[i] += from[i];
  }
  return totals;
}

template <class T>
void store(const std::vector<double>& totals, long index, long channels, T* to) {
  if (!to) return;
  for (long c = 0; c < channels; c++) to[c] = static_cast<T>(totals[index * channels + c]);
}

}  // namespace
}  // namespace bhvit::training
