// A model that is ready to run.

#pragma once

#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/step.h"
#include "engine/turn.h"
#include "format/file.h"

namespace bhvit {

// Default limit of a program's memory in bytes: several times the need of the largest published model.
constexpr uint64_t kDefaultMaxMemory = uint64_t{512} << 20;

struct ProgramOptions {
  int threads = 1;                          // at least 1
  std::string isa = "auto";                 // as in dispatch.h
  uint64_t max_memory = kDefaultMaxMemory;  // bytes of parameters, grids and scratch
};

// Plans its memory when made and allocates nothing while running. Calls from several threads take turns. A child process
// may use the program of its parent, unless a thread of the parent was running it at the fork.
class Program {
 public:
  // `file` holds a whole .bhv file and is not needed afterwards.
  // Throws FormatError, MemoryLimitError, std::invalid_argument, std::system_error (threads) or std::bad_alloc.
  Program(std::string_view file, const ProgramOptions& options);
  // Keeps the file and uses its weights in place.
  Program(std::shared_ptr<const FileBytes> file, const ProgramOptions& options);

  // images (count, in_chans, H, W) -> logits (count, classes), or of pixels (count, classes, H, W). Pointers need no
  // alignment. Stops after the image during which `seconds` are over, and returns the number of images that are done.
  // Throws ForkedError.
  long run(const float* images, long count, float* logits, double seconds = std::numeric_limits<double>::infinity());
  // The same of a segmentation: images -> labels (count, height, width), each the class of the largest logit. Throws
  // std::invalid_argument for a program that classifies.
  long segment(const float* images, long count, uint8_t* labels,
               double seconds = std::numeric_limits<double>::infinity());

  // The same of a classifier: images -> what its linear layer takes, (count, features). Throws std::invalid_argument for a
  // program that labels pixels.
  long embed(const float* images, long count, float* features,
             double seconds = std::numeric_limits<double>::infinity());

  struct Traced {
    std::string name;
    std::vector<int64_t> shape;  // (H, W, C); of logits (classes), or of pixels (classes, H, W)
    std::vector<float> values;
  };
  // What each op writes, for one image.
  std::vector<Traced> trace(const float* image);

  struct Timing {
    std::string name, kind;
    double nanoseconds;  // median over the repeats
  };
  std::vector<Timing> profile(const float* image, int repeats);

  const char* isa() const { return context_.kernels->name; }
  int threads() const { return pool_.threads(); }
  std::vector<int64_t> input_shape() const;  // (in_chans, H, W)
  // What a worker does that JavaScript starts, see ThreadPool.
  void serve(int thread) { pool_.worker_loop(thread); }
  int64_t classes() const { return ops_.back()["classes"]; }
  bool segments() const { return ops_.back().segments(); }
  int64_t logit_floats() const;  // of one image
  int64_t features() const { return segments() ? 0 : ops_.back()["channels"]; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  const Preprocess& preprocess() const { return preprocess_; }
  const Calibration& calibration() const { return calibration_; }
  // The file's bytes before the tensors, if the program keeps its file; otherwise empty.
  std::string_view header() const { return header_; }
  // What another program of the same bytes is made from; null for one that does not keep its file.
  const std::shared_ptr<const FileBytes>& file() const { return file_; }
  bool mapped() const { return file_ && file_->mapped(); }
  size_t memory_bytes() const { return arena_.total(); }  // without a file that is kept

 private:
  struct Running;  // holds the turn of this thread

  void load(std::string_view file, bool borrowed);
  void run_step(size_t index) const;
  template <class Image>
  long run_images(const float* images, long count, double seconds, const Image& each);

  std::shared_ptr<const FileBytes> file_;
  std::string_view header_;
  std::vector<std::string> class_names_;
  Preprocess preprocess_;
  Calibration calibration_;
  std::vector<Op> ops_;
  Arena arena_;
  GridPlan plan_;
  ThreadPool pool_;
  RunContext context_;
  std::vector<std::unique_ptr<Step>> steps_;
  struct Copy {
    const float* from;
    float* to;
    int64_t floats;
  };
  std::vector<Copy> copies_;  // before each step; 0 floats where it needs none
  Turn turn_;
};

}  // namespace bhvit
