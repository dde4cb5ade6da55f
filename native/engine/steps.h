// One step per op: its parameters in the layout of the kernels, its memory, and how it is run.

#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/kernels.h"
#include "format/memory.h"
#include "engine/pool.h"
#include "format/reader.h"

namespace bhvit {

// What a step runs with; the same for all steps of a program.
struct Machine {
  const KernelTable* kernels = nullptr;
  ThreadPool* pool = nullptr;
  const float* image = nullptr;
  std::vector<char*> scratch;  // one block a thread
};

// Plans memory: parameters last as long as the program; grids are reused from op to op.
struct Plan {
  const Model* model = nullptr;
  bool lasting = false;       // whether the bytes of the model outlive the program, which may then use them in place
  Arena* arena = nullptr;
  float* grids[2] = {};       // x before and after a downsampling; sized for the largest grid
  int current = 0;            // which of them holds x
  char* shared = nullptr;     // for what an op needs across threads while it runs
  size_t shared_bytes = 0, scratch_bytes = 0;  // largest needs of any op
  std::map<std::tuple<long, long, long>, uint16_t*> planes;  // bordered bit grids by (H, W, C)
  std::map<std::tuple<long, long, long>, float*> values;     // the same of numbers

  float* x() const { return grids[current]; }
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const Machine& machine) const = 0;

  // The batch norm that the step starts with, if the step before may do it as it leaves x: `do_norm` says whether that
  // one does, and then `norm_is_done` tells this one.
  virtual const NormArgs* first_norm() const { return nullptr; }
  virtual void norm_is_done() {}
  virtual bool do_norm(const NextNorm&) { return false; }

  const Op* op = nullptr;
  const float* output = nullptr;  // x after the op, or the logits
};

// Bytes that all grids, shared blocks and per-thread scratch of these ops need.
struct Needs {
  size_t grid_floats = 0, shared = 0, scratch = 0;
};
Needs needs_of(const std::vector<Op>& ops);

std::unique_ptr<Step> make_step(const Op& op, Plan& plan);

}  // namespace bhvit
