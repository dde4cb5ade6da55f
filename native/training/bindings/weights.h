// Binary weights, and products of bits and of signs.

#pragma once

#include "training/bindings/norms.h"

namespace bhvit::training {
namespace {

// Outputs and inputs of weights (O, ...).
inline Shape rows_of_weights(const Operand& latent, int threads) {
  const Lengths shape = latent.shape();
  if (shape.empty()) latent.refuse_shape("latent", "(O, ...)");
  long inputs = 1;
  for (const int64_t length : shape.subspan(1)) inputs *= length;
  return {shape.front(), inputs, checked_threads(threads)};
}

template <class T>
const T* centre_of(const OptionalOperand& centre, const Shape& rows) {
  return centre ? centre->data<T>("centre", {rows.rows}) : nullptr;
}

template <class T>
void bind_weights(const Binder<T>& to) {
  to.def(
      "binarise",
      [&k = to.kernels](const Operand& latent, const OptionalOperand& centre, int threads, const Operand& out) {
        const Shape shape = rows_of_weights(latent, threads);
        k.binarise(shape, latent.data<T>("latent"), centre_of<T>(centre, shape), out.data<T>("out", latent.shape()));
      },
      "latent"_a, "centre"_a.none(), "threads"_a, "out"_a);
  to.def(
      "binarise_backward",
      [&k = to.kernels](const Operand& latent, const OptionalOperand& centre, int threads, const Operand& out_grad,
                        const Operand& latent_grad) {
        const Shape shape = rows_of_weights(latent, threads);
        k.binarise_backward(shape, latent.data<T>("latent"), centre_of<T>(centre, shape),
                            out_grad.data<T>("out_grad", latent.shape()),
                            latent_grad.data<T>("latent_grad", latent.shape()));
      },
      "latent"_a, "centre"_a.none(), "threads"_a, "out_grad"_a, "latent_grad"_a);
  to.def(
      "weight_bits",
      [&k = to.kernels](const Operand& latent, const OptionalOperand& centre, int threads, const Operand& bits,
                        const Operand& scale) {
        const Tokens rows("latent", latent, threads);
        if (latent.shape().size() != 2 || rows.channels() < 1) latent.refuse_shape("latent", "(O, K)");
        k.weight_bits(rows.shape(), rows.grid<T>("latent", latent), centre_of<T>(centre, rows.shape()),
                      rows.words("bits", bits), scale.data<T>("scale", {rows.rows()}));
      },
      "latent"_a, "centre"_a.none(), "threads"_a, "bits"_a, "scale"_a);
  to.def(
      "binary_linear",
      [&k = to.kernels](const Operand& bits, const Operand& weights, const Operand& scale, double epsilon,
                        double momentum, int threads, const Operand& out, const Operand& mean, const Operand& inverse,
                        const Operand& running_mean, const Operand& running_variance) {
        const Tokens inputs = tokens_of_bits(bits, threads);
        const Lengths of_scale = scale.shape();
        const long outputs = of_scale.empty() ? 0 : of_scale.front();
        if (outputs < 16 || outputs % 16) refuse("scale has shape " + text(of_scale) + ", not a multiple of 16");
        const Tokens products("out", out, threads);
        k.binary_linear(inputs.shape(), inputs.words("bits", bits),
                        weights.data<uint32_t>("weights", {outputs, inputs.channels() / 32}),
                        scale.data<T>("scale", {outputs}), outputs,
                        statistics_of<T>(products, epsilon, momentum, mean, inverse, running_mean, running_variance),
                        inputs.grid<T>("out", out, outputs));
      },
      "bits"_a, "weights"_a, "scale"_a, "epsilon"_a, "momentum"_a, "threads"_a, "out"_a, "mean"_a, "inverse"_a,
      "running_mean"_a, "running_variance"_a);
  to.def(
      "bit_columns",
      [&k = to.kernels](const Operand& bits, int threads, const Operand& columns) {
        const Tokens tokens = tokens_of_bits(bits, threads);
        const int64_t words = (tokens.rows() + 31) / 32;
        k.bit_columns(tokens.shape(), tokens.words("bits", bits),
                      columns.data<uint32_t>("columns", {words, tokens.channels()}));
      },
      "bits"_a, "threads"_a, "columns"_a);
  to.def(
      "sign_products",
      [&k = to.kernels](const Operand& a, bool transposed, const OptionalOperand& scale, const Operand& columns,
                        int threads, const Operand& out) {
        const auto sign_products = existing(k.sign_products);
        const Tokens products("out", out, threads);
        const long rows = products.rows(), channels = products.channels();
        if (a.shape().size() != 2) a.refuse_shape("a", "(R, I)");
        if (channels % 16) out.refuse_shape("out", "(..., C), C a multiple of 16");
        const long inputs = a.shape()[transposed ? 0 : 1];
        sign_products(
            products.shape(), transposed ? a.data<float>("a", {inputs, rows}) : a.data<float>("a", {rows, inputs}),
            transposed, inputs, scale ? scale->data<float>("scale", {inputs}) : nullptr,
            columns.data<uint32_t>("columns", {(inputs + 31) / 32, channels}), products.grid<float>("out", out));
      },
      "a"_a, "transposed"_a, "scale"_a.none(), "columns"_a, "threads"_a, "out"_a);
}

}  // namespace
}  // namespace bhvit::training
