// A model that is ready to run.

#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/step.h"
#include "format/file.h"

namespace bhvit {

// Plans its memory when made and allocates nothing while running. Calls from several threads take turns.
class Program {
 public:
  // `file` holds a whole .bhv file and is not needed afterwards. `threads` >= 1; `isa` as in dispatch.h.
  // Throws FormatError, std::invalid_argument, std::system_error (threads) or std::bad_alloc.
  Program(std::string_view file, int threads, const std::string& isa);
  // Keeps the file and uses its weights in place.
  Program(std::unique_ptr<FileBytes> file, int threads, const std::string& isa);

  // images (count, in_chans, H, W) -> logits (count, classes). Pointers need no alignment.
  void run(const float* images, long count, float* logits);

  struct Traced {
    std::string name;
    std::vector<int64_t> shape;  // (H, W, C), or (classes) for the head
    std::vector<float> values;
  };
  // x after each op, for one image.
  std::vector<Traced> trace(const float* image);

  struct Timing {
    std::string name, kind;
    double nanoseconds;  // median over the repeats
  };
  std::vector<Timing> profile(const float* image, int repeats);

  const char* isa() const { return context_.kernels->name; }
  int threads() const { return pool_.threads(); }
  std::vector<int64_t> input_shape() const;  // (in_chans, H, W)
  int64_t classes() const { return ops_.back()["classes"]; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  const Preprocess& preprocess() const { return preprocess_; }
  // Of a program that keeps its file, the bytes before the tensors; otherwise empty.
  std::string_view header() const { return header_; }
  size_t memory_bytes() const { return arena_.total(); }  // without a file that is kept

 private:
  void load(std::string_view file, bool borrowed);

  std::unique_ptr<FileBytes> file_;
  std::string_view header_;
  std::vector<std::string> class_names_;
  Preprocess preprocess_;
  std::vector<Op> ops_;
  Arena arena_;
  ThreadPool pool_;
  RunContext context_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::mutex running_;
};

}  // namespace bhvit
