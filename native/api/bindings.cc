// Python bindings: conversions and locks, no arithmetic. Types are in src/bhvit/_native.pyi.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <optional>

#include "api/testing.h"
#include "engine/dispatch.h"
#include "engine/float_environment.h"
#include "engine/program.h"
#include "engine/resize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr double kSignalSeconds = 0.1;  // between two looks for Ctrl-C in a long batch

// Gives up Python's lock while it lives. A thread that wants it back while the interpreter ends never gets it: Python
// before 3.14 ends such a thread by unwinding its stack, through frames of C++ that nothing may unwind through, which
// would abort the process. So the unwinding stops here, and the thread waits for the process to end.
class WithoutLock {
 public:
  WithoutLock() : state_(PyEval_SaveThread()) {}
  ~WithoutLock() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  WithoutLock(const WithoutLock&) = delete;
  WithoutLock& operator=(const WithoutLock&) = delete;

 private:
  PyThreadState* state_;
};

bhvit::ProgramOptions program_options(int threads, const std::string& isa, std::optional<uint64_t> max_memory) {
  return {threads, isa, max_memory.value_or(bhvit::kDefaultMaxMemory)};
}

// The environment of floats that results are defined in, entered and left as a context of Python.
class FloatContext {
 public:
  void enter() { defaults_.emplace(); }
  void exit() { defaults_.reset(); }

 private:
  std::optional<bhvit::FloatEnvironment> defaults_;
};

void raise_user_error(const char* type, const char* message) {
  PyErr_SetString(nb::module_::import_("bhvit.errors").attr(type).ptr(), message);
}

using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tiles = nb::ndarray<const uint32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

using Pixels = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

bhvit::Picture picture_of(const Pixels& pixels) {
  const auto edge = [&](size_t i) { return static_cast<int64_t>(pixels.shape(i)); };
  return {pixels.data(), edge(0), edge(1), edge(2), edge(2)};
}

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

// Calls run(images, done) without Python's lock until all images are done, looking for Ctrl-C in between.
template <class Run>
void run_in_parts(const Images& images, const Run& run) {
  const size_t count = images.shape(0), floats = count ? images.size() / count : 0;
  for (size_t done = 0; done < count;) {
    {
      const WithoutLock unlocked;
      done += static_cast<size_t>(run(images.data() + done * floats, done));
    }
    if (done < count && PyErr_CheckSignals() != 0) throw nb::python_error();
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
  nb::set_leak_warnings(false);  // daemon threads that run a program to the end hold it, and that is no mistake

  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const bhvit::FormatError& error) {
      raise_user_error("FormatError", error.what());
    } catch (const bhvit::MemoryLimitError& error) {
      raise_user_error("UserError", error.what());
    } catch (const bhvit::ForkedError& error) {
      raise_user_error("UserError", error.what());
    } catch (const bhvit::FileError& error) {
      PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code, error.reason).ptr());
    }
  });

  nb::class_<bhvit::Program>(m, "Program")
      .def(
          "__init__",
          [](bhvit::Program* self, nb::bytes file, int threads, const std::string& isa,
             std::optional<uint64_t> max_memory) {
            const std::string_view view(file.c_str(), file.size());
            const auto options = program_options(threads, isa, max_memory);
            const WithoutLock unlocked;
            new (self) bhvit::Program(view, options);
          },
          "file"_a, "threads"_a = 1, "isa"_a = "auto", "max_memory"_a = nb::none())
      .def_static(
          "open",
          [](nb::bytes path, int threads, const std::string& isa, std::optional<uint64_t> max_memory,
             std::optional<bool> map) {
            const std::string name(path.c_str(), path.size());
            if (name.find('\0') != std::string::npos) throw std::invalid_argument("a path holds no null character");
            const auto options = program_options(threads, isa, max_memory);
            using bhvit::Mapping;
            const Mapping mapping = !map ? Mapping::large : *map ? Mapping::always : Mapping::never;
            const WithoutLock unlocked;
            return new bhvit::Program(std::make_unique<bhvit::FileBytes>(name, mapping), options);
          },
          "path"_a, "threads"_a = 1, "isa"_a = "auto", "max_memory"_a = nb::none(), "map"_a = nb::none(),
          nb::rv_policy::take_ownership)
      .def(
          "copy",
          [](const bhvit::Program& self, int threads, std::optional<uint64_t> max_memory) {
            if (!self.file()) throw std::invalid_argument("a program of bytes does not keep them");
            const auto options = program_options(threads, self.isa(), max_memory);
            const WithoutLock unlocked;
            return new bhvit::Program(self.file(), options);
          },
          "threads"_a = 1, "max_memory"_a = nb::none(), nb::rv_policy::take_ownership)
      .def(
          "run",
          [](bhvit::Program& self, const Images& images) {
            check_shape(self, images);
            const size_t count = images.shape(0), classes = static_cast<size_t>(self.classes());
            const size_t floats = static_cast<size_t>(self.logit_floats());
            std::vector<float> logits(count * floats);
            run_in_parts(images, [&](const float* part, size_t done) {
              return self.run(part, static_cast<long>(count - done), logits.data() + done * floats, kSignalSeconds);
            });
            std::vector<size_t> shape = {count, classes};
            if (self.segments()) shape.insert(shape.end(), {images.shape(2), images.shape(3)});
            return to_numpy(std::move(logits), shape);
          },
          "images"_a)
      .def(
          "segment",
          [](bhvit::Program& self, const Images& images) {
            check_shape(self, images);
            const size_t count = images.shape(0), pixels = images.shape(2) * images.shape(3);
            std::vector<uint8_t> labels(count * pixels);
            run_in_parts(images, [&](const float* part, size_t done) {
              return self.segment(part, static_cast<long>(count - done), labels.data() + done * pixels, kSignalSeconds);
            });
            return to_numpy(std::move(labels), {count, images.shape(2), images.shape(3)});
          },
          "images"_a)
      .def(
          "trace",
          [](bhvit::Program& self, const Image& image) {
            check_shape(self, image);
            std::vector<bhvit::Program::Traced> traced;
            {
              const WithoutLock unlocked;
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
              const WithoutLock unlocked;
              timings = self.profile(image.data(), repeats);
            }
            nb::list out;
            for (const auto& step : timings) out.append(nb::make_tuple(step.name, step.kind, step.nanoseconds));
            return out;
          },
          "image"_a, "repeats"_a = 1)
      .def(
          "fit",
          [](const bhvit::Program& self, const Pixels& pixels) {
            const bhvit::Preprocess& p = self.preprocess();
            if (pixels.shape(2) != p.mean.size()) throw std::invalid_argument("pixels have other channels");
            const bhvit::FloatEnvironment defaults;
            return to_numpy(bhvit::fit(picture_of(pixels), p),
                            {static_cast<size_t>(p.height), static_cast<size_t>(p.width), pixels.shape(2)});
          },
          "pixels"_a)
      .def_prop_ro("isa", [](const bhvit::Program& self) { return std::string(self.isa()); })
      .def_prop_ro("threads", &bhvit::Program::threads)
      .def_prop_ro("input_shape",
                   [](const bhvit::Program& self) {
                     const std::vector<int64_t> shape = self.input_shape();
                     return nb::make_tuple(shape[0], shape[1], shape[2]);
                   })
      .def_prop_ro("classes", &bhvit::Program::classes)
      .def_prop_ro("segments", &bhvit::Program::segments)
      .def_prop_ro("header",
                   [](const bhvit::Program& self) { return nb::bytes(self.header().data(), self.header().size()); })
      .def_prop_ro("largest_input", [](const bhvit::Program& self) { return bhvit::largest_input(self.preprocess()); })
      .def_prop_ro("mapped", &bhvit::Program::mapped)
      .def_prop_ro("memory_bytes", &bhvit::Program::memory_bytes);

  nb::class_<FloatContext>(m, "FloatEnvironment")
      .def(nb::init<>())
      .def("__enter__", &FloatContext::enter)
      .def("__exit__", [](FloatContext& self, nb::args) { self.exit(); });

  m.def("available_isas", &bhvit::available_isas);
  m.def(
      "resize",
      [](const Pixels& pixels, std::pair<int64_t, int64_t> size, const std::string& filter, std::array<float, 4> box) {
        const bhvit::FloatEnvironment defaults;
        return to_numpy(
            bhvit::resize(picture_of(pixels), size.first, size.second, filter, {box[0], box[1], box[2], box[3]}),
            {static_cast<size_t>(size.first), static_cast<size_t>(size.second), pixels.shape(2)});
      },
      "pixels"_a, "size"_a, "filter"_a, "box"_a);
  m.def("crc32", [](nb::bytes data) { return bhvit::crc32(std::string_view(data.c_str(), data.size())); });
  m.def(
      "peak_rate",
      [](const std::string& isa, double seconds) {
        const WithoutLock unlocked;
        return bhvit::peak_rate(isa, seconds);
      },
      "isa"_a = "auto", "seconds"_a = 0.2);
  m.def(
      "float_peak_rate",
      [](const std::string& isa, double seconds) {
        const WithoutLock unlocked;
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
