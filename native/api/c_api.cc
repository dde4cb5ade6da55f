// The C API over Program: checks of arguments and translation of exceptions, no arithmetic.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <system_error>

#include "api/bhvit.h"
#include "engine/float_environment.h"
#include "engine/program.h"
#include "engine/resize.h"

struct bhvit_session {
  template <class File>
  bhvit_session(File&& file, const bhvit::ProgramOptions& options)
      : program(std::forward<File>(file), options), largest_input(bhvit::largest_input(program.preprocess())) {}
  bhvit::Program program;
  const float largest_input;
};

namespace {

constexpr int kMaxThreads = 256;  // as in src/bhvit/runtime/session.py

constexpr size_t kMaxEdge = 1 << 20;  // pixels; positions beyond 2^24 would not be whole floats

// A fixed block: keeping the text of a failure cannot fail, and nothing runs when a thread ends.
#if defined(BHVIT_WEB)
char last_error[1024];  // workers neither open nor fail, and have no memory of their own for it
#else
thread_local char last_error[1024];
#endif

bhvit_status fail(bhvit_status status, const char* text) {
  const size_t length = std::min(std::strlen(text), sizeof last_error - 1);
  std::memcpy(last_error, text, length);
  last_error[length] = 0;
  // Paths and names are the caller's: one line, and nothing that a terminal takes for a command, whatever they hold.
  for (char* c = last_error; *c; c++) {
    const auto first = static_cast<unsigned char>(c[0]), second = static_cast<unsigned char>(c[1]);
    if (first < 0x20 || first == 0x7f) *c = '?';
    if (first == 0xc2 && second >= 0x80 && second < 0xa0) c[0] = c[1] = '?';  // U+0080 to U+009F
  }
  return status;
}

#if defined(BHVIT_WEB)
template <class Body>
bhvit_status guarded(const Body& body) {
  return body();
}
#else
template <class Body>
bhvit_status guarded(const Body& body) noexcept {
  try {
    return body();
  } catch (const bhvit::FormatError& error) {
    return fail(BHVIT_FORMAT, error.what());
  } catch (const bhvit::MemoryLimitError& error) {
    return fail(BHVIT_MEMORY, error.what());
  } catch (const bhvit::FileError& error) {
    return fail(BHVIT_FILE, error.what());
  } catch (const std::invalid_argument& error) {
    return fail(BHVIT_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(BHVIT_MEMORY, "not enough memory for this model");
  } catch (const std::system_error& error) {
    return fail(BHVIT_SYSTEM, error.what());
  } catch (const std::exception& error) {
    return fail(BHVIT_SYSTEM, error.what());
  } catch (...) {
    return fail(BHVIT_SYSTEM, "an unknown fault");
  }
}
#endif

// Checks what every way of opening takes, then calls open(options, mapping), which gives the session.
template <class Open>
bhvit_status open_with(const void* source, const char* source_name, const bhvit_options* options,
                       bhvit_session** session, const Open& open) {
  return guarded([&] {
    if (!session) return fail(BHVIT_ARGUMENT, "session must not be null");
    *session = nullptr;
    if (!source) return fail(BHVIT_ARGUMENT, (std::string(source_name) + " must not be null").c_str());
    bhvit_options given = BHVIT_OPTIONS;
    if (options) {
      if (options->size != sizeof given) return fail(BHVIT_ARGUMENT, "options must begin as BHVIT_OPTIONS does");
      given = *options;
    }
    if (given.threads < 1 || given.threads > kMaxThreads) {
      return fail(BHVIT_ARGUMENT, ("threads must be 1 to 256, not " + std::to_string(given.threads)).c_str());
    }
    if (given.mapping < BHVIT_MAP_LARGE || given.mapping > BHVIT_MAP_NEVER) {
      return fail(BHVIT_ARGUMENT, "mapping must be one of bhvit_mapping");
    }
    *session = open(bhvit::ProgramOptions{given.threads, given.isa ? given.isa : "auto",
                                          given.max_memory ? given.max_memory : bhvit::kDefaultMaxMemory},
                    static_cast<bhvit::Mapping>(given.mapping));
    return BHVIT_OK;
  });
}

// a * b, or more than any buffer has where that overflows.
size_t product(size_t a, size_t b) {
  return b && a > std::numeric_limits<size_t>::max() / b ? std::numeric_limits<size_t>::max() : a * b;
}

bhvit_status check_size(const char* name, const void* buffer, size_t given, size_t needed) {
  if (given != needed) {
    return fail(
        BHVIT_ARGUMENT,
        (std::string(name) + " must hold " + std::to_string(needed) + " values, not " + std::to_string(given)).c_str());
  }
  if (!buffer && needed) return fail(BHVIT_ARGUMENT, (std::string(name) + " must not be null").c_str());
  return BHVIT_OK;
}

bhvit_status no_session() { return fail(BHVIT_ARGUMENT, "session must not be null"); }

size_t image_size(const bhvit::Program& program) {
  const bhvit::Preprocess& p = program.preprocess();
  return p.mean.size() * static_cast<size_t>(p.height * p.width);
}

// A sign has no value for NaN or infinity, so the answer would look sound and mean nothing.
bhvit_status check_images(const bhvit_session& session, const float* images, size_t image_floats) {
  for (size_t i = 0; i < image_floats; i++) {
    if (!std::isfinite(images[i])) {
      return fail(BHVIT_ARGUMENT, "images hold NaN or infinity; check how they were normalised");
    }
    if (std::abs(images[i]) > session.largest_input) {
      return fail(BHVIT_ARGUMENT,
                  "images go far beyond what normalised pixels give; bhvit_normalize makes them from bytes");
    }
  }
  return BHVIT_OK;
}

}  // namespace

#if defined(BHVIT_WEB)
// Nothing is caught in this build: throwing ends in JavaScript, which leaves WebAssembly by an exception of its own.
extern "C" __attribute__((import_module("env"), import_name("bhvit_throw"), noreturn)) void bhvit_throw(void* error);
extern "C" void* __cxa_allocate_exception(size_t bytes) noexcept {
  void* const error = std::malloc(bytes);
  if (!error) bhvit_throw(nullptr);
  return error;
}
extern "C" void __cxa_throw(void* error, void*, void (*)(void*)) { bhvit_throw(error); }
extern "C" void __cxa_pure_virtual() { __builtin_trap(); }  // the library's would bring printf along

// The status of an exception that left a call, with its text for bhvit_error. Null stands for one that found no memory.
extern "C" bhvit_status bhvit_caught(std::exception* error) {
  if (!error) return fail(BHVIT_MEMORY, "not enough memory for this model");
  const auto is = [&]<class Kind>(Kind*) { return dynamic_cast<Kind*>(error) != nullptr; };
  if (is(static_cast<bhvit::FormatError*>(nullptr))) return fail(BHVIT_FORMAT, error->what());
  if (is(static_cast<bhvit::MemoryLimitError*>(nullptr))) return fail(BHVIT_MEMORY, error->what());
  if (is(static_cast<std::invalid_argument*>(nullptr))) return fail(BHVIT_ARGUMENT, error->what());
  if (is(static_cast<std::bad_alloc*>(nullptr))) return fail(BHVIT_MEMORY, "not enough memory for this model");
  return fail(BHVIT_SYSTEM, error->what());
}

// What a worker of a session that was opened with several threads calls; it never returns.
extern "C" void bhvit_serve(bhvit_session* session, int thread) { session->program.serve(thread); }
#endif

const char* bhvit_version(void) { return BHVIT_VERSION; }

const char* bhvit_error(void) { return last_error; }

bhvit_status bhvit_open_file(const char* path, int threads, const char* isa, bhvit_session** session) {
  const bhvit_options options = {sizeof options, threads, isa, 0, BHVIT_MAP_LARGE};
  return bhvit_open_file_with(path, &options, session);
}

bhvit_status bhvit_open_file_with(const char* path, const bhvit_options* options, bhvit_session** session) {
  return open_with(path, "path", options, session, [&](const bhvit::ProgramOptions& chosen, bhvit::Mapping mapping) {
    return new bhvit_session(std::make_unique<bhvit::FileBytes>(path, mapping), chosen);
  });
}

bhvit_status bhvit_open_memory(const void* bytes, size_t size, int threads, const char* isa, bhvit_session** session) {
  const bhvit_options options = {sizeof options, threads, isa, 0, BHVIT_MAP_LARGE};
  return bhvit_open_memory_with(bytes, size, &options, session);
}

bhvit_status bhvit_open_memory_with(const void* bytes, size_t size, const bhvit_options* options,
                                    bhvit_session** session) {
  return open_with(bytes, "bytes", options, session, [&](const bhvit::ProgramOptions& chosen, bhvit::Mapping) {
    return new bhvit_session(std::string_view(static_cast<const char*>(bytes), size), chosen);
  });
}

void bhvit_close(bhvit_session* session) { delete session; }

bhvit_status bhvit_get_info(const bhvit_session* session, bhvit_info* info) {
  if (!session) return no_session();
  if (!info) return fail(BHVIT_ARGUMENT, "info must not be null");
  const bhvit::Program& program = session->program;
  const bhvit::Preprocess& p = program.preprocess();
  *info = {p.mean.size(),
           static_cast<size_t>(p.height),
           static_cast<size_t>(p.width),
           program.class_names().size(),
           image_size(program),
           static_cast<size_t>(p.cover_height),
           static_cast<size_t>(p.cover_width),
           p.interpolation.c_str(),
           p.mean.data(),
           p.std.data(),
           program.isa(),
           program.threads()};
  return BHVIT_OK;
}

const char* bhvit_class_name(const bhvit_session* session, size_t index) {
  const char* name = nullptr;
  guarded([&] {
    if (!session) return no_session();
    const std::vector<std::string>& names = session->program.class_names();
    if (index < names.size()) {
      name = names[index].c_str();
      return BHVIT_OK;
    }
    return fail(
        BHVIT_ARGUMENT,
        ("there is no class " + std::to_string(index) + ": the model has " + std::to_string(names.size())).c_str());
  });
  return name;
}

bhvit_status bhvit_normalize(const bhvit_session* session, const uint8_t* pixels, size_t pixel_bytes, size_t height,
                             size_t width, float* image, size_t image_floats) {
  return guarded([&] {
    if (!session) return no_session();
    const bhvit::Preprocess& p = session->program.preprocess();
    if (height < static_cast<size_t>(p.height) || width < static_cast<size_t>(p.width)) {
      return fail(BHVIT_ARGUMENT, ("a picture of " + std::to_string(height) + "x" + std::to_string(width) +
                                   " (height x width) is smaller than the model's " + std::to_string(p.height) + "x" +
                                   std::to_string(p.width) + ": resize it first")
                                      .c_str());
    }
    bhvit_status status = check_size("pixels", pixels, pixel_bytes, product(product(height, width), p.mean.size()));
    if (status == BHVIT_OK) status = check_size("image", image, image_floats, image_size(session->program));
    if (status == BHVIT_OK) {
      const bhvit::FloatEnvironment defaults;
      bhvit::normalize(p, pixels, static_cast<int64_t>(height), static_cast<int64_t>(width), image);
    }
    return status;
  });
}

const char* bhvit_task(const bhvit_session* session) {
  if (!session) {
    no_session();
    return nullptr;
  }
  return session->program.segments() ? "segment" : "classify";
}

bhvit_status bhvit_preprocess(const bhvit_session* session, const uint8_t* pixels, size_t pixel_bytes, size_t height,
                              size_t width, size_t channels, float* image, size_t image_floats) {
  return guarded([&] {
    if (!session) return no_session();
    const bhvit::Preprocess& p = session->program.preprocess();
    if (channels != p.mean.size() && !(channels == 4 && p.mean.size() == 3)) {
      return fail(BHVIT_ARGUMENT, ("a picture of " + std::to_string(channels) + " channels cannot become the model's " +
                                   std::to_string(p.mean.size()))
                                      .c_str());
    }
    if (height < 1 || width < 1 || height > kMaxEdge || width > kMaxEdge) {
      return fail(BHVIT_ARGUMENT, ("a picture has 1 to " + std::to_string(kMaxEdge) + " pixels an edge, not " +
                                   std::to_string(height) + "x" + std::to_string(width) + " (height x width)")
                                      .c_str());
    }
    bhvit_status status = check_size("pixels", pixels, pixel_bytes, product(product(height, width), channels));
    if (status == BHVIT_OK) status = check_size("image", image, image_floats, image_size(session->program));
    if (status != BHVIT_OK) return status;
    const bhvit::FloatEnvironment defaults;
    const bhvit::Picture picture = {pixels, static_cast<int64_t>(height), static_cast<int64_t>(width),
                                    static_cast<int64_t>(channels), static_cast<int64_t>(p.mean.size())};
    const bhvit::Box whole = {0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height)};
    const std::vector<uint8_t> resized = session->program.segments()
                                             ? bhvit::resize(picture, p.height, p.width, p.interpolation, whole)
                                             : bhvit::fit(picture, p);
    bhvit::normalize(p, resized.data(), p.height, p.width, image);
    return status;
  });
}

bhvit_status bhvit_run(bhvit_session* session, size_t count, const float* images, size_t image_floats, float* logits,
                       size_t logit_floats) {
  return guarded([&] {
    if (!session) return no_session();
    bhvit::Program& program = session->program;
    bhvit_status status = check_size("images", images, image_floats, product(count, image_size(program)));
    if (status == BHVIT_OK) {
      status = check_size("logits", logits, logit_floats, product(count, static_cast<size_t>(program.logit_floats())));
    }
    if (status == BHVIT_OK) status = check_images(*session, images, image_floats);
    if (status == BHVIT_OK) program.run(images, static_cast<long>(count), logits);
    return status;
  });
}

bhvit_status bhvit_segment(bhvit_session* session, size_t count, const float* images, size_t image_floats,
                           uint8_t* labels, size_t label_bytes) {
  return guarded([&] {
    if (!session) return no_session();
    bhvit::Program& program = session->program;
    if (!program.segments()) return fail(BHVIT_ARGUMENT, "the model classifies images; it has no labels of pixels");
    const bhvit::Preprocess& p = program.preprocess();
    bhvit_status status = check_size("images", images, image_floats, product(count, image_size(program)));
    if (status == BHVIT_OK) {
      status = check_size("labels", labels, label_bytes, product(count, static_cast<size_t>(p.height * p.width)));
    }
    if (status == BHVIT_OK) status = check_images(*session, images, image_floats);
    if (status == BHVIT_OK) program.segment(images, static_cast<long>(count), labels);
    return status;
  });
}

bhvit_status bhvit_resize_labels(const uint8_t* labels, size_t label_bytes, size_t height, size_t width,
                                 uint8_t* resized, size_t resized_bytes, size_t resized_height, size_t resized_width) {
  return guarded([&] {
    for (const size_t edge : {height, width, resized_height, resized_width}) {
      if (edge < 1 || edge > kMaxEdge) {
        return fail(BHVIT_ARGUMENT,
                    ("a map of labels has 1 to " + std::to_string(kMaxEdge) + " pixels an edge").c_str());
      }
    }
    bhvit_status status = check_size("labels", labels, label_bytes, height * width);
    if (status == BHVIT_OK) status = check_size("resized", resized, resized_bytes, resized_height * resized_width);
    if (status != BHVIT_OK) return status;
    const bhvit::FloatEnvironment defaults;
    const bhvit::Picture picture = {labels, static_cast<int64_t>(height), static_cast<int64_t>(width), 1, 1};
    const bhvit::Box whole = {0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height)};
    const std::vector<uint8_t> found = bhvit::resize(picture, static_cast<int64_t>(resized_height),
                                                     static_cast<int64_t>(resized_width), "nearest", whole);
    std::copy(found.begin(), found.end(), resized);
    return BHVIT_OK;
  });
}

size_t bhvit_feature_count(const bhvit_session* session) {
  if (!session) return no_session(), 0;
  if (session->program.segments())
    fail(BHVIT_ARGUMENT, "the model labels pixels; only a model that classifies has features");
  return static_cast<size_t>(session->program.features());
}

bhvit_status bhvit_embed(bhvit_session* session, size_t count, const float* images, size_t image_floats,
                         float* features, size_t feature_floats) {
  return guarded([&] {
    if (!session) return no_session();
    bhvit::Program& program = session->program;
    bhvit_status status = check_size("images", images, image_floats, product(count, image_size(program)));
    if (status == BHVIT_OK && !program.segments()) {
      status =
          check_size("features", features, feature_floats, product(count, static_cast<size_t>(program.features())));
    }
    if (status == BHVIT_OK) status = check_images(*session, images, image_floats);
    if (status == BHVIT_OK) program.embed(images, static_cast<long>(count), features);
    return status;
  });
}

bhvit_status bhvit_probabilities(const bhvit_session* session, size_t count, const float* logits, size_t logit_floats,
                                 float* probabilities, size_t probability_floats) {
  return guarded([&] {
    if (!session) return no_session();
    const size_t classes = session->program.class_names().size();
    bhvit_status status = check_size("logits", logits, logit_floats, product(count, classes));
    if (status == BHVIT_OK) status = check_size("probabilities", probabilities, probability_floats, logit_floats);
    if (status != BHVIT_OK) return status;
    const bhvit::FloatEnvironment defaults;
    for (size_t i = 0; i < logit_floats; i += classes) {
      bhvit::probabilities(session->program.calibration(), logits + i, classes, probabilities + i);
    }
    return BHVIT_OK;
  });
}

bhvit_status bhvit_unknown(const bhvit_session* session, double miss_rate, size_t count, const float* logits,
                           size_t logit_floats, uint8_t* unknown, size_t unknown_bytes) {
  return guarded([&] {
    if (!session) return no_session();
    const bhvit::Calibration& calibration = session->program.calibration();
    const size_t classes = session->program.class_names().size();
    if (calibration.quantiles.empty()) {
      return fail(BHVIT_ARGUMENT, "the model was not calibrated: `bhvit calibrate` sets its threshold");
    }
    if (!(miss_rate >= 0 && miss_rate <= 1)) return fail(BHVIT_ARGUMENT, "miss_rate must be from 0 to 1");
    bhvit_status status = check_size("logits", logits, logit_floats, product(count, classes));
    if (status == BHVIT_OK) status = check_size("unknown", unknown, unknown_bytes, count);
    if (status != BHVIT_OK) return status;
    const bhvit::FloatEnvironment defaults;
    const double threshold = bhvit::threshold(calibration, miss_rate);
    for (size_t i = 0; i < count; i++) {
      unknown[i] = bhvit::score(calibration, logits + i * classes, classes) < threshold;
    }
    return BHVIT_OK;
  });
}
