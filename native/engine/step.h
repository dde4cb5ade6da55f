// One step per op: its parameters in the layout of the kernels, its memory, and how it runs.

#pragma once

#include <memory>
#include <vector>

#include "engine/parameters.h"
#include "engine/pool.h"
#include "engine/workspace.h"
#include "format/reader.h"
#include "kernels/kernels.h"

namespace bhvit {

// What a step runs with; the same for all steps of a program.
struct RunContext {
  const KernelTable* kernels = nullptr;
  ThreadPool* pool = nullptr;
  const float* image = nullptr;
  float* pixels = nullptr;     // where a segmentation writes logits (classes, height, width),
  uint8_t* labels = nullptr;   // or, if this is not null, labels (height, width)
  std::vector<char*> scratch;  // one block a thread
};

class Step {
 public:
  virtual ~Step() = default;
  // Whether the step changes the first value that it reads; otherwise it writes another grid.
  virtual bool in_place() const { return true; }
  // Takes the memory that the step works in. Called twice, see Workspace. Of a step that works in place, the output
  // holds its first input already.
  virtual void place(Workspace& memory) = 0;
  virtual void run(const RunContext& context) const = 0;

  // The batch norm that the step starts with, if the step before may do it as it leaves x: `do_norm` says whether that
  // one does, and then `norm_is_done` tells this one.
  virtual const NormArgs* first_norm() const { return nullptr; }
  virtual void norm_is_done() {}
  virtual bool do_norm(const NextNorm&) { return false; }

  const Op* op = nullptr;
  const float* output = nullptr;    // x after the op, or the logits; null for logits of pixels
  const float* features = nullptr;  // of a classifier, what its linear layer takes
};

constexpr long kTokenGrain = 8;  // tokens that a thread takes at least

// The norm before an op: its parameters, and later its memory.
NormArgs norm_args(const Op& op, Parameters& parameters);
void run_norm(const RunContext& context, const NormArgs& args, long tokens);

std::unique_ptr<Step> make_step(const Op& op, const ParameterSource& source);

// Places all steps of a program, one after the other.
void place(const std::vector<std::unique_ptr<Step>>& steps, Workspace& memory);

}  // namespace bhvit
