// Batch norms and signs.

#pragma once

#include "training/bindings/binder.h"

namespace bhvit::training {
namespace {

template <class T>
Statistics<T> statistics_of(const Tokens& products, double epsilon, double momentum, const Operand& mean,
                            const Operand& inverse, const Operand& running_mean, const Operand& running_variance) {
  if (products.rows() < 2) refuse("a variance needs two rows or more");
  return {.epsilon = epsilon,
          .momentum = momentum,
          .mean = products.vector<T>("mean", mean),
          .inverse = products.vector<T>("inverse", inverse),
          .running_mean = products.vector<T>("running_mean", running_mean),
          .running_variance = products.vector<T>("running_variance", running_variance)};
}

template <class T>
Norm<T> norm_of(const Tokens& x, const Operand& mean, const Operand& inverse, const Operand& weight,
                const Operand& bias) {
  return {.mean = x.vector<T>("mean", mean),
          .inverse = x.vector<T>("inverse", inverse),
          .scale = x.vector<T>("weight", weight),
          .offset = x.vector<T>("bias", bias)};
}

inline Tokens tokens_of_bits(const Operand& bits, int threads) {
  return Tokens("bits", bits, threads, bits.shape().empty() ? 0 : 32 * bits.shape().back());
}

template <class T>
void bind_norms(const Binder<T>& to) {
  to.def(
      "statistics",
      [&k = to.kernels](const Operand& x, double epsilon, double momentum, int threads, const Operand& mean,
                        const Operand& inverse, const Operand& running_mean, const Operand& running_variance) {
        const Tokens tokens("x", x, threads);
        k.statistics(tokens.shape(), tokens.grid<T>("x", x),
                     statistics_of<T>(tokens, epsilon, momentum, mean, inverse, running_mean, running_variance));
      },
      "x"_a, "epsilon"_a, "momentum"_a, "threads"_a, "mean"_a, "inverse"_a, "running_mean"_a, "running_variance"_a);
  to.def(
      "normalise",
      [&k = to.kernels](const Operand& x, const Operand& mean, const Operand& inverse, const Operand& weight,
                        const Operand& bias, int threads, const Operand& out) {
        const Tokens tokens("x", x, threads);
        k.normalise(tokens.shape(), tokens.grid<T>("x", x), norm_of<T>(tokens, mean, inverse, weight, bias),
                    tokens.grid<T>("out", out));
      },
      "x"_a, "mean"_a, "inverse"_a, "weight"_a, "bias"_a, "threads"_a, "out"_a);
  to.def(
      "normalise_backward",
      [&k = to.kernels](const Operand& x, const Operand& mean, const Operand& inverse, const Operand& weight,
                        const Operand& bias, int threads, const Operand& out_grad, const Operand& x_grad,
                        const Operand& weight_grad, const Operand& bias_grad) {
        const Tokens tokens("x", x, threads);
        k.normalise_backward(tokens.shape(), tokens.grid<T>("x", x), norm_of<T>(tokens, mean, inverse, weight, bias),
                             tokens.grid<T>("out_grad", out_grad), tokens.grid<T>("x_grad", x_grad),
                             tokens.vector<T>("weight_grad", weight_grad), tokens.vector<T>("bias_grad", bias_grad));
      },
      "x"_a, "mean"_a, "inverse"_a, "weight"_a, "bias"_a, "threads"_a, "out_grad"_a, "x_grad"_a, "weight_grad"_a,
      "bias_grad"_a);
}

template <class T>
void bind_signs(const Binder<T>& to) {
  to.def(
      "signs",
      [&k = to.kernels](const Operand& x, const Operand& learnable_bias, bool binary, int threads, const Operand& out) {
        const Tokens tokens("x", x, threads);
        k.signs(tokens.shape(), tokens.grid<T>("x", x), tokens.vector<T>("learnable_bias", learnable_bias), binary,
                tokens.grid<T>("out", out));
      },
      "x"_a, "learnable_bias"_a, "binary"_a, "threads"_a, "out"_a);
  to.def(
      "signs_backward",
      [&k = to.kernels](const Operand& x, const Operand& learnable_bias, bool binary, int threads,
                        const Operand& out_grad, bool add, const Operand& x_grad, const Operand& learnable_bias_grad) {
        const Tokens tokens("x", x, threads);
        k.signs_backward(tokens.shape(), tokens.grid<T>("x", x), tokens.vector<T>("learnable_bias", learnable_bias),
                         binary, tokens.grid<T>("out_grad", out_grad), add, tokens.grid<T>("x_grad", x_grad),
                         tokens.vector<T>("learnable_bias_grad", learnable_bias_grad));
      },
      "x"_a, "learnable_bias"_a, "binary"_a, "threads"_a, "out_grad"_a, "add"_a, "x_grad"_a, "learnable_bias_grad"_a);
  to.def(
      "pack_bits",
      [&k = to.kernels](const Operand& x, const Operand& learnable_bias, int threads, const Operand& bits) {
        const Tokens tokens("x", x, threads);
        k.pack_bits(tokens.shape(), tokens.grid<T>("x", x), tokens.vector<T>("learnable_bias", learnable_bias),
                    tokens.words("bits", bits));
      },
      "x"_a, "learnable_bias"_a, "threads"_a, "bits"_a);
  to.def(
      "unpack_bits",
      [&k = to.kernels](const Operand& bits, int threads, const Operand& out) {
        const Tokens tokens = tokens_of_bits(bits, threads);
        k.unpack_bits(tokens.shape(), tokens.words("bits", bits), tokens.grid<T>("out", out));
      },
      "bits"_a, "threads"_a, "out"_a);
}

}  // namespace
}  // namespace bhvit::training
