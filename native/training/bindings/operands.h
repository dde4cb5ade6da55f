// Tensors as the functions of bindings.cc are given them, and what is checked of each before a kernel reads its memory.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "training/kernels.h"

namespace bhvit::training {

namespace nb = nanobind;

using Lengths = std::span<const int64_t>;

inline std::string text(Lengths lengths) {
  std::string all = "(";
  for (size_t i = 0; i < lengths.size(); i++) all += (i ? ", " : "") + std::to_string(lengths[i]);
  return all + (lengths.size() == 1 ? ",)" : ")");
}

[[noreturn]] inline void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

// An argument that is a tensor of PyTorch. What it holds is unknown until `data` has compared it.
class Operand {
 public:
  Operand() = default;
  explicit Operand(nb::ndarray<> array) : array_(std::move(array)) {}

  Lengths shape() const { return {array_.shape_ptr(), array_.ndim()}; }
  bool holds_words() const { return array_.is_valid() && array_.dtype() == nb::dtype<int32_t>(); }

  // Its elements. Raises TypeError or ValueError, which name it, unless they are of type T (uint32_t: words, int32 in
  // PyTorch), contiguous and on the CPU.
  template <class T>
  T* data(const char* name) const {
    constexpr bool words = std::is_same_v<T, uint32_t>;
    check_memory(name, words ? nb::dtype<int32_t>() : nb::dtype<T>(),
                 words            ? "int32"
                 : sizeof(T) == 8 ? "float64"
                                  : "float32");
    return static_cast<T*>(array_.data());
  }

  // The same; raises ValueError, too, unless it has this shape.
  template <class T>
  T* data(const char* name, Lengths wanted) const {
    T* elements = data<T>(name);
    if (!std::ranges::equal(shape(), wanted)) refuse_shape(name, text(wanted));
    return elements;
  }
  template <class T>
  T* data(const char* name, std::initializer_list<int64_t> wanted) const {
    return data<T>(name, Lengths(wanted.begin(), wanted.size()));
  }

  [[noreturn]] void refuse_shape(const char* name, const std::string& wanted) const {
    check_readable(name);
    refuse(std::string(name) + " has shape " + text(shape()) + ", not " + wanted);
  }

 private:
  void check_readable(const char* name) const {
    if (!array_.is_valid()) {
      throw nb::type_error((std::string(name) + " has no memory that native code can read").c_str());
    }
  }

  void check_memory(const char* name, nb::dlpack::dtype type, const char* type_name) const {
    const auto subject = [=] { return std::string(name); };
    check_readable(name);
    if (array_.device_type() != nb::device::cpu::value) refuse(subject() + " is not on the CPU");
    if (array_.dtype() != type) throw nb::type_error((subject() + " is not of dtype " + type_name).c_str());
    if (!is_contiguous()) refuse(subject() + " is not contiguous");
  }

  bool is_contiguous() const {
    int64_t expected = 1;
    for (size_t i = array_.ndim(); i-- > 0;) {
      if (array_.shape(i) == 0) return true;
      if (array_.shape(i) != 1 && array_.stride(i) != expected) return false;
      expected *= array_.shape(i);
    }
    return true;
  }

  nb::ndarray<> array_;
};

using OptionalOperand = std::optional<Operand>;

inline int checked_threads(int threads) {
  if (threads < 1 || threads > 4096) refuse("threads must be 1 to 4096, not " + std::to_string(threads));
  return threads;
}

// Rows of channels: the shape (..., C) of one operand, with which others are compared.
class Tokens {
 public:
  // `channels`: C where `like` holds something else of each row, as words of 32 channels.
  Tokens(const char* name, const Operand& like, int threads, std::optional<long> channels = {}) : like_(like.shape()) {
    if (like_.empty()) like.refuse_shape(name, "(..., C)");
    long rows = 1;
    for (const int64_t length : rows_of(like_)) rows *= length;
    shape_ = {rows, channels.value_or(like_.back()), checked_threads(threads)};
  }

  const Shape& shape() const { return shape_; }
  long rows() const { return shape_.rows; }
  long channels() const { return shape_.channels; }

  // (..., C), or (..., count): an element for each of so many channels.
  template <class T>
  T* grid(const char* name, const Operand& operand) const {
    return grid<T>(name, operand, channels());
  }
  template <class T>
  T* grid(const char* name, const Operand& operand, int64_t count) const {
    T* elements = operand.data<T>(name);
    const Lengths given = operand.shape();
    if (given.size() != like_.size() || given.back() != count || !std::ranges::equal(rows_of(given), rows_of(like_))) {
      std::vector<int64_t> wanted(like_.begin(), like_.end());
      wanted.back() = count;
      operand.refuse_shape(name, text(wanted));
    }
    return elements;
  }

  // (..., C / 32): bits of channels.
  uint32_t* words(const char* name, const Operand& operand) const {
    if (channels() % 32) refuse(std::to_string(channels()) + " channels do not fill words of 32 bits");
    return grid<uint32_t>(name, operand, channels() / 32);
  }

  // (C,), or null where an optional one is not given.
  template <class T>
  T* vector(const char* name, const Operand& operand) const {
    return operand.data<T>(name, {channels()});
  }
  template <class T>
  T* vector(const char* name, const OptionalOperand& operand) const {
    return operand ? vector<T>(name, *operand) : nullptr;
  }

  // One of each operand of a list.
  template <class T>
  std::vector<T*> grids(const char* name, const std::vector<Operand>& operands) const {
    std::vector<T*> all;
    for (const Operand& operand : operands) all.push_back(grid<T>(name, operand));
    return all;
  }
  template <class T>
  std::vector<T*> vectors(const char* name, const std::vector<Operand>& operands) const {
    std::vector<T*> all;
    for (const Operand& operand : operands) all.push_back(vector<T>(name, operand));
    return all;
  }

 private:
  static Lengths rows_of(Lengths shape) { return shape.first(shape.size() - 1); }

  Lengths like_;
  Shape shape_;
};

}  // namespace bhvit::training

namespace nanobind::detail {

template <>
struct type_caster<bhvit::training::Operand> {
  NB_TYPE_CASTER(bhvit::training::Operand, const_name("torch.Tensor"))

  bool from_python(handle source, uint32_t, cleanup_list* cleanup) noexcept;
};

}  // namespace nanobind::detail
