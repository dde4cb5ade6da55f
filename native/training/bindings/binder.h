// Puts functions for one float type into a module of Python.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "training/bindings/operands.h"
#include "training/kernels.h"

namespace bhvit::training {
namespace {

using namespace nb::literals;

template <class T>
struct Binder {
  nb::module_ module;
  const Table<T>& kernels;

  // All arguments are named, and other threads of Python run meanwhile.
  template <class Function, class... Extra>
  void def(const char* name, Function&& function, const Extra&... arguments) const {
    nb::module_(module).def(name, std::forward<Function>(function), nb::call_guard<nb::gil_scoped_release>(),
                            nb::kw_only(), arguments...);
  }
};

// A function that not every instruction set has; see `multiplies_signs`.
template <class Function>
Function* existing(Function* function) {
  if (!function) refuse("this instruction set and type have no products of signs; see multiplies_signs");
  return function;
}

}  // namespace
}  // namespace bhvit::training
