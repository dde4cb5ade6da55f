// Python bindings of the fused training kernels: addresses of tensors in, nothing out. What they must be is checked by
// their callers in src/bhvit/models/fused; types are in src/bhvit/_training.pyi.

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <vector>

#include "training/dispatch.h"

namespace nb = nanobind;
using namespace bhvit::training;

namespace {

using Address = uintptr_t;
using Addresses = std::vector<Address>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
std::vector<T*> all(const Addresses& addresses) {
  std::vector<T*> pointers;
  for (const Address address : addresses) pointers.push_back(at<T>(address));
  return pointers;
}

template <class T>
Norm<T> norm_of(const std::array<Address, 4>& a) {
  return {at<const T>(a[0]), at<const T>(a[1]), at<const T>(a[2]), at<const T>(a[3])};
}

template <class T>
Statistics<T> statistics_of(const std::array<double, 2>& constants, const std::array<Address, 4>& a) {
  return {constants[0], constants[1], at<T>(a[0]), at<T>(a[1]), at<T>(a[2]), at<T>(a[3])};
}

template <class T>
Unit<T> unit_of(Address h, Address residual, long width, const std::array<Address, 4>& norm,
                const std::array<Address, 3>& rprelu, const std::array<Address, 2>& scale, Address move, bool binary) {
  return {at<const T>(h),
          at<const T>(residual),
          width,
          norm_of<T>(norm),
          at<const T>(rprelu[0]),
          at<const T>(rprelu[1]),
          at<const T>(rprelu[2]),
          at<const T>(scale[0]),
          at<const T>(scale[1]),
          at<const T>(move),
          binary};
}

template <class T>
Attention<T> attention_of(const std::array<long, 5>& shape, int threads, const std::array<Address, 5>& operands) {
  return {shape[0],
          shape[1],
          shape[2],
          shape[3],
          shape[4],
          threads,
          at<const T>(operands[0]),
          at<const T>(operands[1]),
          at<const T>(operands[2]),
          at<const T>(operands[3]),
          at<const T>(operands[4])};
}

// Every function for one float type, in a submodule.
template <class T>
void define(nb::module_& m, const char* name, const Table<T>& kernels) {
  nb::module_ to = m.def_submodule(name);
  const nb::call_guard<nb::gil_scoped_release> unlocked;

  to.def(
      "statistics",
      [&kernels](long rows, long channels, int threads, Address x, std::array<double, 2> constants,
                 std::array<Address, 4> results) {
        kernels.statistics({rows, channels, threads}, at<T>(x), statistics_of<T>(constants, results));
      },
      unlocked);
  to.def(
      "normalise",
      [&kernels](long rows, long channels, int threads, Address x, std::array<Address, 4> norm, Address out) {
        kernels.normalise({rows, channels, threads}, at<T>(x), norm_of<T>(norm), at<T>(out));
      },
      unlocked);
  to.def(
      "normalise_backward",
      [&kernels](long rows, long channels, int threads, Address x, std::array<Address, 4> norm, Address grad,
                 Address x_grad, Address scale, Address offset) {
        kernels.normalise_backward({rows, channels, threads}, at<T>(x), norm_of<T>(norm), at<T>(grad), at<T>(x_grad),
                                   at<T>(scale), at<T>(offset));
      },
      unlocked);
  to.def(
      "signs",
      [&kernels](long rows, long channels, int threads, Address x, Address move, bool binary, Address out) {
        kernels.signs({rows, channels, threads}, at<T>(x), at<T>(move), binary, at<T>(out));
      },
      unlocked);
  to.def(
      "bits",
      [&kernels](long rows, long channels, int threads, Address x, Address move, Address out) {
        kernels.bits({rows, channels, threads}, at<T>(x), at<T>(move), at<uint32_t>(out));
      },
      unlocked);
  to.def(
      "numbers",
      [&kernels](long rows, long channels, int threads, Address bits, Address out) {
        kernels.numbers({rows, channels, threads}, at<uint32_t>(bits), at<T>(out));
      },
      unlocked);
  to.def(
      "binary_linear",
      [&kernels](long rows, long channels, int threads, Address bits, Address weights, Address scale, long outputs,
                 std::array<double, 2> constants, std::array<Address, 4> results, Address out) {
        kernels.binary_linear({rows, channels, threads}, at<uint32_t>(bits), at<uint32_t>(weights), at<T>(scale),
                              outputs, statistics_of<T>(constants, results), at<T>(out));
      },
      unlocked);
  to.def(
      "bit_columns",
      [&kernels](long rows, long channels, int threads, Address bits, Address out) {
        kernels.bit_columns({rows, channels, threads}, at<uint32_t>(bits), at<uint32_t>(out));
      },
      unlocked);
  to.attr("multiplies_signs") = kernels.sign_products != nullptr;
  to.def(
      "sign_products",
      [&kernels](long rows, long channels, int threads, Address a, bool transposed, long inputs, Address scale,
                 Address columns, Address out) {
        kernels.sign_products({rows, channels, threads}, at<float>(a), transposed, inputs, at<float>(scale),
                              at<uint32_t>(columns), at<float>(out));
      },
      unlocked);
  to.def(
      "binarise",
      [&kernels](long rows, long inputs, int threads, Address latent, Address centre, Address out) {
        kernels.binarise({rows, inputs, threads}, at<T>(latent), at<T>(centre), at<T>(out));
      },
      unlocked);
  to.def(
      "weight_bits",
      [&kernels](long rows, long inputs, int threads, Address latent, Address centre, Address bits, Address scale) {
        kernels.weight_bits({rows, inputs, threads}, at<T>(latent), at<T>(centre), at<uint32_t>(bits), at<T>(scale));
      },
      unlocked);
  to.def(
      "binarise_backward",
      [&kernels](long rows, long inputs, int threads, Address latent, Address centre, Address grad, Address out) {
        kernels.binarise_backward({rows, inputs, threads}, at<T>(latent), at<T>(centre), at<T>(grad), at<T>(out));
      },
      unlocked);
  to.def(
      "signs_backward",
      [&kernels](long rows, long channels, int threads, Address x, Address move, bool binary, Address grad, bool add,
                 Address x_grad, Address move_grad) {
        kernels.signs_backward({rows, channels, threads}, at<T>(x), at<T>(move), binary, at<T>(grad), add,
                               at<T>(x_grad), at<T>(move_grad));
      },
      unlocked);
  to.def(
      "unit",
      [&kernels](long rows, long channels, int threads, Address h, Address residual, long width,
                 std::array<Address, 4> norm, std::array<Address, 3> rprelu, std::array<Address, 2> scale, Address move,
                 bool binary, Address out, Address signs, Address bits, Address means) {
        kernels.unit({rows, channels, threads}, unit_of<T>(h, residual, width, norm, rprelu, scale, move, binary),
                     at<T>(out), at<T>(signs), at<uint32_t>(bits), at<T>(means));
      },
      unlocked);
  to.def(
      "unit_backward",
      [&kernels](long rows, long channels, int threads, Address h, Address residual, long width,
                 std::array<Address, 4> norm, std::array<Address, 3> rprelu, std::array<Address, 2> scale, Address move,
                 bool binary, Address out, Address signs, Address means, Address h_grad, Address residual_grad,
                 std::array<Address, 8> sums) {
        const UnitGradients<T> grads{at<T>(out),           at<T>(signs),   at<T>(means),   at<T>(h_grad),
                                     at<T>(residual_grad), at<T>(sums[0]), at<T>(sums[1]), at<T>(sums[2]),
                                     at<T>(sums[3]),       at<T>(sums[4]), at<T>(sums[5]), at<T>(sums[6]),
                                     at<T>(sums[7])};
        kernels.unit_backward({rows, channels, threads},
                              unit_of<T>(h, residual, width, norm, rprelu, scale, move, binary), grads);
      },
      unlocked);
  to.def(
      "branches",
      [&kernels](long rows, long channels, int threads, Addresses y, Addresses input, Addresses slope, Address shift,
                 Address out) {
        kernels.branches({rows, channels, threads}, static_cast<int>(y.size()), all<const T>(y).data(),
                         all<const T>(input).data(), all<const T>(slope).data(), at<T>(shift), at<T>(out));
      },
      unlocked);
  to.def(
      "branches_backward",
      [&kernels](long rows, long channels, int threads, Addresses y, Addresses input, Addresses slope, Address grad,
                 Addresses y_grad, Addresses input_grad, Addresses slope_grad, Address shift_grad) {
        kernels.branches_backward({rows, channels, threads}, static_cast<int>(y.size()), all<const T>(y).data(),
                                  all<const T>(input).data(), all<const T>(slope).data(), at<T>(grad),
                                  all<T>(y_grad).data(), all<T>(input_grad).data(), all<T>(slope_grad).data(),
                                  at<T>(shift_grad));
      },
      unlocked);
  to.def(
      "conv",
      [&kernels](std::array<long, 4> grid, int threads, int groups, int dilation, bool add, Address x, Address weights,
                 Address out) {
        kernels.conv({grid[0], grid[1], grid[2], grid[3], threads}, groups, dilation, add, at<T>(x), at<T>(weights),
                     at<T>(out));
      },
      unlocked);
  to.def(
      "conv_weights",
      [&kernels](std::array<long, 4> grid, int threads, int groups, int dilation, Address x, Address grad,
                 Address weights) {
        kernels.conv_weights({grid[0], grid[1], grid[2], grid[3], threads}, groups, dilation, at<T>(x), at<T>(grad),
                             at<T>(weights));
      },
      unlocked);
  to.def(
      "binary_conv",
      [&kernels](std::array<long, 4> grid, int threads, int groups, int dilation, Address x, Address weights,
                 Address out) {
        kernels.binary_conv({grid[0], grid[1], grid[2], grid[3], threads}, groups, dilation, at<T>(x), at<T>(weights),
                            at<T>(out));
      },
      unlocked);
  to.def(
      "sign_conv",
      [&kernels](std::array<long, 4> grid, int threads, int groups, int dilation, bool add, Address x, Address weights,
                 Address out) {
        kernels.sign_conv({grid[0], grid[1], grid[2], grid[3], threads}, groups, dilation, add, at<float>(x),
                          at<float>(weights), at<float>(out));
      },
      unlocked);
  to.def(
      "sign_conv_weights",
      [&kernels](std::array<long, 4> grid, int threads, int groups, int dilation, Address x, Address grad,
                 Address weights) {
        kernels.sign_conv_weights({grid[0], grid[1], grid[2], grid[3], threads}, groups, dilation, at<float>(x),
                                  at<float>(grad), at<float>(weights));
      },
      unlocked);
  to.def(
      "cross",
      [&kernels](std::array<long, 4> grid, int threads, std::array<int, 18> offsets, bool cyclic, Address x,
                 Address taps, Address shift, Address base, Address out) {
        kernels.cross({grid[0], grid[1], grid[2], grid[3], threads}, offsets.data(), cyclic, at<T>(x), at<T>(taps),
                      at<T>(shift), at<T>(base), at<T>(out));
      },
      unlocked);
  to.def(
      "cross_backward",
      [&kernels](std::array<long, 4> grid, int threads, std::array<int, 18> offsets, bool cyclic, Address x,
                 Address taps, Address grad, Address x_grad, Address taps_grad, Address shift_grad) {
        kernels.cross_backward({grid[0], grid[1], grid[2], grid[3], threads}, offsets.data(), cyclic, at<T>(x),
                               at<T>(taps), at<T>(grad), at<T>(x_grad), at<T>(taps_grad), at<T>(shift_grad));
      },
      unlocked);
  to.def(
      "attention",
      [&kernels](std::array<long, 5> shape, int threads, std::array<Address, 5> operands, Address out) {
        kernels.attention(attention_of<T>(shape, threads, operands), at<T>(out));
      },
      unlocked);
  to.def(
      "attention_backward",
      [&kernels](std::array<long, 5> shape, int threads, std::array<Address, 5> operands, Address grad,
                 std::array<Address, 5> grads) {
        kernels.attention_backward(attention_of<T>(shape, threads, operands), at<T>(grad), at<T>(grads[0]),
                                   at<T>(grads[1]), at<T>(grads[2]), at<T>(grads[3]), at<T>(grads[4]));
      },
      unlocked);
}

}  // namespace

NB_MODULE(_training, m) {
  m.doc() = "Fused kernels of a training step on a CPU; bhvit.models.fused is their face.";
  nb::dict found;
  for (const IsaKernels& kernels : available_kernels()) {
    nb::module_ to = m.def_submodule(kernels.name);
    found[kernels.name] = to;
    define<float>(to, "float32", *kernels.floats);
    define<double>(to, "float64", *kernels.doubles);
  }
  m.attr("isas") = found;  // the fastest first
}
