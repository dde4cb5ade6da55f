// What looks at neighbours, and attention.

#pragma once

#include "training/bindings/binder.h"

namespace bhvit::training {
namespace {

// Grids of tokens (B, H, W, C), and operands that are compared with them.
struct GridTokens {
  Tokens tokens;
  Grid grid;

  GridTokens(const Operand& x, int threads) : tokens("x", x, threads) {
    const Lengths shape = x.shape();
    if (shape.size() != 4) x.refuse_shape("x", "(B, H, W, C)");
    if (shape[1] * shape[2] > INT32_MAX) refuse("an image of " + text(shape) + " has too many tokens");
    grid = {shape[0], shape[1], shape[2], shape[3], threads};
  }

  // Groups of a 3x3 convolution, and its weights (groups, 9, inputs, outputs), C / groups of each.
  template <class T>
  std::pair<int, T*> weights(const char* name, const Operand& operand, int dilation) const {
    if (dilation < 1 || dilation > kFarthest) refuse("dilation must be 1 to " + std::to_string(kFarthest));
    const Lengths shape = operand.shape();
    const int64_t groups = shape.empty() ? 0 : shape.front();
    if (groups < 1 || groups > grid.channels || grid.channels % groups || grid.channels / groups % 16) {
      refuse(std::to_string(grid.channels) + " channels are not " + std::to_string(groups) +
             " groups of multiples of 16");
    }
    const int64_t inputs = grid.channels / groups;
    return {static_cast<int>(groups), operand.data<T>(name, {groups, 9, inputs, inputs})};
  }

  static constexpr int kFarthest = 1 << 20;
};

// The row and column of each of the nine tokens around one.
using Offsets = std::array<std::array<int, 2>, 9>;

const int* checked_offsets(const Offsets& offsets) {
  for (const auto& offset : offsets)
    for (const int step : offset)
      if (std::abs(static_cast<long>(step)) > GridTokens::kFarthest) refuse("offsets are too far");
  return offsets.front().data();
}

template <class T, class E>
void bind_conv(const Binder<T>& to, const char* name,
               void (*kernel)(const Grid&, int, int, bool, const E*, const E*, E*)) {
  to.def(
      name,
      [kernel](const Operand& x, const Operand& weights, int dilation, bool add, int threads, const Operand& out) {
        const auto run = existing(kernel);
        const GridTokens grid(x, threads);
        const auto [groups, taps] = grid.weights<E>("weights", weights, dilation);
        run(grid.grid, groups, dilation, add, grid.tokens.grid<E>("x", x), taps, grid.tokens.grid<E>("out", out));
      },
      "x"_a, "weights"_a, "dilation"_a, "add"_a, "threads"_a, "out"_a);
}

template <class T, class E>
void bind_conv_weights(const Binder<T>& to, const char* name,
                       void (*kernel)(const Grid&, int, int, const E*, const E*, E*)) {
  to.def(
      name,
      [kernel](const Operand& x, int dilation, int threads, const Operand& out_grad, const Operand& weights_grad) {
        const auto run = existing(kernel);
        const GridTokens grid(x, threads);
        const auto [groups, taps] = grid.weights<E>("weights_grad", weights_grad, dilation);
        run(grid.grid, groups, dilation, grid.tokens.grid<E>("x", x), grid.tokens.grid<E>("out_grad", out_grad), taps);
      },
      "x"_a, "dilation"_a, "threads"_a, "out_grad"_a, "weights_grad"_a);
}

template <class T>
void bind_grids(const Binder<T>& to) {
  bind_conv(to, "conv", to.kernels.conv);
  bind_conv(to, "sign_conv", to.kernels.sign_conv);
  bind_conv_weights(to, "conv_weights", to.kernels.conv_weights);
  bind_conv_weights(to, "sign_conv_weights", to.kernels.sign_conv_weights);
  to.def(
      "binary_conv",
      [&k = to.kernels](const Operand& x, const Operand& weights, int dilation, int threads, const Operand& out) {
        const GridTokens grid(x, threads);
        const auto [groups, taps] = grid.weights<T>("weights", weights, dilation);
        k.binary_conv(grid.grid, groups, dilation, grid.tokens.grid<T>("x", x), taps, grid.tokens.grid<T>("out", out));
      },
      "x"_a, "weights"_a, "dilation"_a, "threads"_a, "out"_a);
  to.def(
      "cross",
      [&k = to.kernels](const Operand& x, const Operand& taps, const Operand& shift, const Operand& base,
                        const Offsets& offsets, bool cyclic, int threads, const Operand& out) {
        const GridTokens grid(x, threads);
        const Tokens& tokens = grid.tokens;
        k.cross(grid.grid, checked_offsets(offsets), cyclic, tokens.grid<T>("x", x),
                taps.data<T>("taps", {9, tokens.channels()}), tokens.vector<T>("shift", shift),
                tokens.grid<T>("base", base), tokens.grid<T>("out", out));
      },
      "x"_a, "taps"_a, "shift"_a, "base"_a, "offsets"_a, "cyclic"_a, "threads"_a, "out"_a);
  to.def(
      "cross_backward",
      [&k = to.kernels](const Operand& x, const Operand& taps, const Offsets& offsets, bool cyclic, int threads,
                        const Operand& out_grad, const Operand& x_grad, const Operand& taps_grad,
                        const Operand& shift_grad) {
        const GridTokens grid(x, threads);
        const Tokens& tokens = grid.tokens;
        k.cross_backward(grid.grid, checked_offsets(offsets), cyclic, tokens.grid<T>("x", x),
                         taps.data<T>("taps", {9, tokens.channels()}), tokens.grid<T>("out_grad", out_grad),
                         tokens.grid<T>("x_grad", x_grad), taps_grad.data<T>("taps_grad", {9, tokens.channels()}),
                         tokens.vector<T>("shift_grad", shift_grad));
      },
      "x"_a, "taps"_a, "offsets"_a, "cyclic"_a, "threads"_a, "out_grad"_a, "x_grad"_a, "taps_grad"_a, "shift_grad"_a);
}

template <class T>
Attention<T> attention_of(const Operand& q, const Operand& k, const Operand& v, const Operand& step,
                          const Operand& offset, int threads) {
  const Tokens queries("q", q, threads), keys("k", k, threads);
  const Lengths of_q = q.shape(), of_k = k.shape();
  const int64_t heads = step.shape().empty() ? 0 : step.shape().front(), channels = queries.channels();
  if (of_q.size() < 2 || of_q.size() != of_k.size() || keys.channels() != channels || heads < 1 || channels % heads ||
      !std::ranges::equal(of_q.first(of_q.size() - 2), of_k.first(of_k.size() - 2))) {
    refuse("queries of shape " + text(of_q) + " and keys of shape " + text(of_k) + " do not go with " +
           std::to_string(heads) + " heads");
  }
  int64_t groups = 1;
  for (const int64_t length : of_q.first(of_q.size() - 2)) groups *= length;
  return {.groups = groups,
          .queries = of_q[of_q.size() - 2],
          .keys = of_k[of_k.size() - 2],
          .heads = heads,
          .depth = channels / heads,
          .threads = threads,
          .q = queries.grid<T>("q", q),
          .k = keys.grid<T>("k", k),
          .v = keys.grid<T>("v", v),
          .step = step.data<T>("step", {heads}),
          .offset = offset.data<T>("offset", {heads})};
}

template <class T>
void bind_attention(const Binder<T>& to) {
  to.def(
      "attention",
      [&k = to.kernels](const Operand& q, const Operand& keys, const Operand& v, const Operand& step,
                        const Operand& offset, int threads, const Operand& out) {
        k.attention(attention_of<T>(q, keys, v, step, offset, threads), out.data<T>("out", q.shape()));
      },
      "q"_a, "k"_a, "v"_a, "step"_a, "offset"_a, "threads"_a, "out"_a);
  to.def(
      "attention_backward",
      [&k = to.kernels](const Operand& q, const Operand& keys, const Operand& v, const Operand& step,
                        const Operand& offset, int threads, const Operand& out_grad, const Operand& q_grad,
                        const Operand& k_grad, const Operand& v_grad, const Operand& step_grad,
                        const Operand& offset_grad) {
        k.attention_backward(attention_of<T>(q, keys, v, step, offset, threads),
                             out_grad.data<T>("out_grad", q.shape()), q_grad.data<T>("q_grad", q.shape()),
                             k_grad.data<T>("k_grad", keys.shape()), v_grad.data<T>("v_grad", keys.shape()),
                             step_grad.data<T>("step_grad", step.shape()),
                             offset_grad.data<T>("offset_grad", step.shape()));
      },
      "q"_a, "k"_a, "v"_a, "step"_a, "offset"_a, "threads"_a, "out_grad"_a, "q_grad"_a, "k_grad"_a, "v_grad"_a,
      "step_grad"_a, "offset_grad"_a);
}

}  // namespace
}  // namespace bhvit::training
