// Python bindings: conversions and locks, no arithmetic. Types are in src/bhvit/_native.pyi.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>

#include "engine/dispatch.h"
#include "engine/program.h"
#include "api/testing.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tiles = nb::ndarray<const uint32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// A new NumPy array that owns a copy-free block of the values.
template <class T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T>&& values, const std::vector<size_t>& shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* block) noexcept { delete static_cast<std::vector<T>*>(block); });
  return nb::ndarray<nb::numpy, T>(owned->data(), shape.size(), shape.data(), owner);
}

template <class Array>
void check_shape(const bhvit::Program& program, const Array& images) {
  const std::vector<int64_t> wanted = program.input_shape();
  const size_t skip = images.ndim() - 3;
  for (size_t i = 0; i < 3; i++) {
    if (static_cast<int64_t>(images.shape(skip + i)) != wanted[i]) {
      throw std::invalid_argument("images do not have the program's input shape");
    }
  }
}

void check_tiles(const Words& activations, const Tiles& tiles) {
  if (tiles.shape(1) != activations.shape(1) || tiles.shape(2) != 16) {
    throw std::invalid_argument("tiles must be (tiles, words, 16) with the words of the activations");
  }
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native engine of bhvit; bhvit.Session is its public face.";

  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const bhvit::FormatError& error) {
      const nb::object type = nb::module_::import_("bhvit.errors").attr("FormatError");
      PyErr_SetString(type.ptr(), error.what());
    } catch (const bhvit::FileError& error) {
      errno = error.code;
      PyErr_SetFromErrno(PyExc_OSError);
    }
  });

  nb::class_<bhvit::Program>(m, "Program")
      .def(
          "__init__",
          [](bhvit::Program* self, nb::bytes file, int threads, const std::string& isa) {
            const std::string_view view(file.c_str(), file.size());
            nb::gil_scoped_release release;
            new (self) bhvit::Program(view, threads, isa);
          },
          "file"_a, "threads"_a = 1, "isa"_a = "auto")
      .def_static(
          "open",
          [](nb::bytes path, int threads, const std::string& isa) {
            const std::string name(path.c_str(), path.size());
            if (name.find('\0') != std::string::npos) throw std::invalid_argument("a path holds no null character");
            nb::gil_scoped_release release;
            return new bhvit::Program(std::make_unique<bhvit::FileBytes>(name), threads, isa);
          },
          "path"_a, "threads"_a = 1, "isa"_a = "auto", nb::rv_policy::take_ownership)
      .def(
          "run",
          [](bhvit::Program& self, const Images& images) {
            check_shape(self, images);
            const size_t count = images.shape(0), classes = static_cast<size_t>(self.classes());
            std::vector<float> logits(count * classes);
            {
              nb::gil_scoped_release release;
              self.run(images.data(), static_cast<long>(count), logits.data());
            }
            return to_numpy(std::move(logits), {count, classes});
          },
          "images"_a)
      .def(
          "trace",
          [](bhvit::Program& self, const Image& image) {
            check_shape(self, image);
            std::vector<bhvit::Program::Traced> traced;
            {
              nb::gil_scoped_release release;
              traced = self.trace(image.data());
            }
            nb::list out;
            for (auto& step : traced) {
              const std::vector<size_t> shape(step.shape.begin(), step.shape.end());
              out.append(nb::make_tuple(step.name, to_numpy(std::move(step.values), shape)));
            }
            return out;
          },
          "image"_a)
      .def(
          "profile",
          [](bhvit::Program& self, const Image& image, int repeats) {
            check_shape(self, image);
            if (repeats < 1) throw std::invalid_argument("repeats must be at least 1");
            std::vector<bhvit::Program::Timing> timings;
            {
              nb::gil_scoped_release release;
              timings = self.profile(image.data(), repeats);
            }
            nb::list out;
            for (const auto& step : timings) out.append(nb::make_tuple(step.name, step.kind, step.nanoseconds));
            return out;
          },
          "image"_a, "repeats"_a = 1)
      .def_prop_ro("isa", [](const bhvit::Program& self) { return std::string(self.isa()); })
      .def_prop_ro("threads", &bhvit::Program::threads)
      .def_prop_ro("input_shape",
                   [](const bhvit::Program& self) {
                     const std::vector<int64_t> shape = self.input_shape();
                     return nb::make_tuple(shape[0], shape[1], shape[2]);
                   })
      .def_prop_ro("classes", &bhvit::Program::classes)
      .def_prop_ro("header",
                   [](const bhvit::Program& self) { return nb::bytes(self.header().data(), self.header().size()); })
      .def_prop_ro("memory_bytes", &bhvit::Program::memory_bytes);

  m.def("available_isas", &bhvit::available_isas);
  m.def("crc32", [](nb::bytes data) { return bhvit::crc32(std::string_view(data.c_str(), data.size())); });
  m.def(
      "peak_rate",
      [](const std::string& isa, double seconds) {
        nb::gil_scoped_release release;
        return bhvit::peak_rate(isa, seconds);
      },
      "isa"_a = "auto", "seconds"_a = 0.2);
  m.def(
      "float_peak_rate",
      [](const std::string& isa, double seconds) {
        nb::gil_scoped_release release;
        return bhvit::float_peak_rate(isa, seconds);
      },
      "isa"_a = "auto", "seconds"_a = 0.2);
  m.def(
      "binary_linear",
      [](const std::string& isa, const Words& activations, const Tiles& tiles, long length) {
        check_tiles(activations, tiles);
        const size_t tokens = activations.shape(0), outputs = tiles.shape(0) * 16;
        return to_numpy(bhvit::binary_linear(isa, activations.data(), static_cast<long>(tokens),
                                             static_cast<long>(activations.shape(1)), tiles.data(),
                                             static_cast<long>(tiles.shape(0)), length),
                        {tokens, outputs});
      },
      "isa"_a, "activations"_a, "tiles"_a, "length"_a);
  m.def(
      "common_bits",
      [](const std::string& isa, const Words& activations, const Tiles& tiles) {
        check_tiles(activations, tiles);
        const size_t tokens = activations.shape(0), outputs = tiles.shape(0) * 16;
        return to_numpy(bhvit::common_bits(isa, activations.data(), static_cast<long>(tokens),
                                           static_cast<long>(activations.shape(1)), tiles.data(),
                                           static_cast<long>(tiles.shape(0))),
                        {tokens, outputs});
      },
      "isa"_a, "activations"_a, "tiles"_a);
}
