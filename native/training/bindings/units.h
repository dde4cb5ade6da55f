// Residual units, and sums of RPReLUs.

#pragma once

#include "training/bindings/norms.h"

namespace bhvit::training {
namespace {

// Tensors of a unit; those of LayerScale and `learnable_bias` are optional.
struct UnitOperands {
  const Operand &h, &residual, &mean, &inverse, &weight, &bias, &shift_in, &slope, &shift_out;
  const OptionalOperand &scale, &shift, &learnable_bias;
};

// Channels of a unit's residual. Means of hidden channels must lie within one tile of it.
long width_of(const Tokens& h, const UnitOperands& given) {
  const Lengths shape = given.residual.shape();
  const long width = shape.empty() ? 0 : shape.back(), channels = h.channels();
  if (width < 1 || channels < 1 || channels % width || (given.learnable_bias && width % (channels / width))) {
    refuse("a residual of shape " + text(shape) + " cannot be tiled to " + text(given.h.shape()));
  }
  return width;
}

template <class T>
Unit<T> unit_of(const Tokens& h, const UnitOperands& given, bool binary) {
  const long width = width_of(h, given);
  if (given.scale.has_value() != given.shift.has_value()) refuse("scale and shift are given both or neither");
  if (given.scale && given.learnable_bias) refuse("a unit has scale and shift, or learnable_bias");
  return {.h = h.grid<T>("h", given.h),
          .residual = h.grid<T>("residual", given.residual, width),
          .width = width,
          .norm = norm_of<T>(h, given.mean, given.inverse, given.weight, given.bias),
          .shift_in = h.vector<T>("shift_in", given.shift_in),
          .slope = h.vector<T>("slope", given.slope),
          .shift_out = h.vector<T>("shift_out", given.shift_out),
          .out_scale = h.vector<T>("scale", given.scale),
          .out_shift = h.vector<T>("shift", given.shift),
          .learnable_bias = h.vector<T>("learnable_bias", given.learnable_bias),
          .binary = binary};
}

// A gradient is wanted of what is given, and of nothing else.
template <class T>
T* gradient_of(const Tokens& h, const char* name, const OptionalOperand& operand, const OptionalOperand& gradient) {
  if (operand.has_value() != gradient.has_value()) refuse(std::string(name) + " goes with the tensor it is of");
  return h.vector<T>(name, gradient);
}

inline int count_branches(std::initializer_list<size_t> lengths) {
  for (const size_t length : lengths)
    if (length != *lengths.begin()) refuse("lists of branches differ in length");
  if (*lengths.begin() < 1 || *lengths.begin() > 64) refuse("1 to 64 branches are added up");
  return static_cast<int>(*lengths.begin());
}

template <class T>
void bind_units(const Binder<T>& to) {
  to.def(
      "unit",
      [&k = to.kernels](const Operand& h, const Operand& residual, const Operand& mean, const Operand& inverse,
                        const Operand& weight, const Operand& bias, const Operand& shift_in, const Operand& slope,
                        const Operand& shift_out, const OptionalOperand& scale, const OptionalOperand& shift,
                        const OptionalOperand& learnable_bias, bool binary, int threads, const OptionalOperand& out,
                        const OptionalOperand& signs, const OptionalOperand& means) {
        const Tokens tokens("h", h, threads);
        const Unit<T> unit = unit_of<T>(
            tokens,
            {h, residual, mean, inverse, weight, bias, shift_in, slope, shift_out, scale, shift, learnable_bias},
            binary);
        if (learnable_bias.has_value() != signs.has_value() || learnable_bias.has_value() != means.has_value() ||
            learnable_bias.has_value() == out.has_value()) {
          refuse("a unit with learnable_bias fills signs and means, one without it out");
        }
        if (!learnable_bias)
          return k.unit(tokens.shape(), unit, tokens.grid<T>("out", *out), nullptr, nullptr, nullptr);
        T* to = tokens.grid<T>("means", *means, unit.width);
        if (!signs->holds_words())
          return k.unit(tokens.shape(), unit, nullptr, tokens.grid<T>("signs", *signs), nullptr, to);
        if (!binary || unit.width % 32) refuse("signs of this unit do not fill words of 32 bits");
        k.unit(tokens.shape(), unit, nullptr, nullptr, tokens.words("signs", *signs), to);
      },
      "h"_a, "residual"_a, "mean"_a, "inverse"_a, "weight"_a, "bias"_a, "shift_in"_a, "slope"_a, "shift_out"_a,
      "scale"_a.none(), "shift"_a.none(), "learnable_bias"_a.none(), "binary"_a, "threads"_a, "out"_a = nb::none(),
      "signs"_a = nb::none(), "means"_a = nb::none());
  to.def(
      "unit_backward",
      [&k = to.kernels](const Operand& h, const Operand& residual, const Operand& mean, const Operand& inverse,
                        const Operand& weight, const Operand& bias, const Operand& shift_in, const Operand& slope,
                        const Operand& shift_out, const OptionalOperand& scale, const OptionalOperand& shift,
                        const OptionalOperand& learnable_bias, bool binary, int threads,
                        const OptionalOperand& out_grad, const OptionalOperand& signs_grad,
                        const OptionalOperand& means_grad, const Operand& h_grad, const Operand& residual_grad,
                        const Operand& weight_grad, const Operand& bias_grad, const Operand& shift_in_grad,
                        const Operand& slope_grad, const Operand& shift_out_grad, const OptionalOperand& scale_grad,
                        const OptionalOperand& shift_grad, const OptionalOperand& learnable_bias_grad) {
        const Tokens tokens("h", h, threads);
        const Unit<T> unit = unit_of<T>(
            tokens,
            {h, residual, mean, inverse, weight, bias, shift_in, slope, shift_out, scale, shift, learnable_bias},
            binary);
        if (learnable_bias.has_value() != signs_grad.has_value() ||
            learnable_bias.has_value() != means_grad.has_value() ||
            learnable_bias.has_value() == out_grad.has_value()) {
          refuse("a unit with learnable_bias takes signs_grad and means_grad, one without it out_grad");
        }
        k.unit_backward(
            tokens.shape(), unit,
            {.out = out_grad ? tokens.grid<T>("out_grad", *out_grad) : nullptr,
             .signs = signs_grad ? tokens.grid<T>("signs_grad", *signs_grad) : nullptr,
             .means = means_grad ? tokens.grid<T>("means_grad", *means_grad, unit.width) : nullptr,
             .h = tokens.grid<T>("h_grad", h_grad),
             .residual = tokens.grid<T>("residual_grad", residual_grad, unit.width),
             .norm_scale = tokens.vector<T>("weight_grad", weight_grad),
             .norm_offset = tokens.vector<T>("bias_grad", bias_grad),
             .shift_in = tokens.vector<T>("shift_in_grad", shift_in_grad),
             .slope = tokens.vector<T>("slope_grad", slope_grad),
             .shift_out = tokens.vector<T>("shift_out_grad", shift_out_grad),
             .out_scale = gradient_of<T>(tokens, "scale_grad", scale, scale_grad),
             .out_shift = gradient_of<T>(tokens, "shift_grad", shift, shift_grad),
             .learnable_bias = gradient_of<T>(tokens, "learnable_bias_grad", learnable_bias, learnable_bias_grad)});
      },
      "h"_a, "residual"_a, "mean"_a, "inverse"_a, "weight"_a, "bias"_a, "shift_in"_a, "slope"_a, "shift_out"_a,
      "scale"_a.none(), "shift"_a.none(), "learnable_bias"_a.none(), "binary"_a, "threads"_a, "out_grad"_a.none(),
      "signs_grad"_a.none(), "means_grad"_a.none(), "h_grad"_a, "residual_grad"_a, "weight_grad"_a, "bias_grad"_a,
      "shift_in_grad"_a, "slope_grad"_a, "shift_out_grad"_a, "scale_grad"_a.none(), "shift_grad"_a.none(),
      "learnable_bias_grad"_a.none());
  to.def(
      "branches",
      [&k = to.kernels](const std::vector<Operand>& ys, const std::vector<Operand>& inputs,
                        const std::vector<Operand>& slopes, const Operand& shift, int threads, const Operand& out) {
        const Tokens tokens("out", out, threads);
        const int count = count_branches({ys.size(), inputs.size(), slopes.size()});
        const auto y = tokens.grids<T>("ys", ys), input = tokens.vectors<T>("inputs", inputs);
        const auto slope = tokens.vectors<T>("slopes", slopes);
        k.branches(tokens.shape(), count, y.data(), input.data(), slope.data(), tokens.vector<T>("shift", shift),
                   tokens.grid<T>("out", out));
      },
      "ys"_a, "inputs"_a, "slopes"_a, "shift"_a, "threads"_a, "out"_a);
  to.def(
      "branches_backward",
      [&k = to.kernels](const std::vector<Operand>& ys, const std::vector<Operand>& inputs,
                        const std::vector<Operand>& slopes, int threads, const Operand& out_grad,
                        const std::vector<Operand>& ys_grad, const std::vector<Operand>& inputs_grad,
                        const std::vector<Operand>& slopes_grad, const Operand& shift_grad) {
        const Tokens tokens("out_grad", out_grad, threads);
        const int count = count_branches(
            {ys.size(), inputs.size(), slopes.size(), ys_grad.size(), inputs_grad.size(), slopes_grad.size()});
        const auto y = tokens.grids<T>("ys", ys), input = tokens.vectors<T>("inputs", inputs);
        const auto slope = tokens.vectors<T>("slopes", slopes), dy = tokens.grids<T>("ys_grad", ys_grad);
        const auto dinput = tokens.vectors<T>("inputs_grad", inputs_grad);
        const auto dslope = tokens.vectors<T>("slopes_grad", slopes_grad);
        k.branches_backward(tokens.shape(), count, y.data(), input.data(), slope.data(),
                            tokens.grid<T>("out_grad", out_grad), dy.data(), dinput.data(), dslope.data(),
                            tokens.vector<T>("shift_grad", shift_grad));
      },
      "ys"_a, "inputs"_a, "slopes"_a, "threads"_a, "out_grad"_a, "ys_grad"_a, "inputs_grad"_a, "slopes_grad"_a,
      "shift_grad"_a);
}

}  // namespace
}  // namespace bhvit::training
