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
  std::vector<char*> scratch;  // one block a thread
};

class Step {
 public:
  virtual ~Step() = default;
  // Takes the memory that the step works in. Called twice, see Workspace.
  virtual void place(Workspace& memory) = 0;
  virtual void run(const RunContext& context) const = 0;

  // The batch norm that the step starts with, if the step before may do it as it leaves x: `do_norm` says whether that
  // one does, and then `norm_is_done` tells this one.
  virtual const NormArgs* first_norm() const { return nullptr; }
  virtual void norm_is_done() {}
  virtual bool do_norm(const NextNorm&) { return false; }

  const Op* op = nullptr;
  const float* output = nullptr;  // x after the op, or the logits
};

constexpr long kTokenGrain = 8;  // tokens that a thread takes at least

// The norm before an op: its parameters, and later its memory.
NormArgs norm_args(const Op& op, Parameters& parameters);
void run_norm(const RunContext& context, const NormArgs& args, long tokens);

std::unique_ptr<Step> make_step(const Op& op, const ParameterSource& source);

// Places all steps of a program, one after the other.
void place(const std::vector<std::unique_ptr<Step>>& steps, Workspace& memory);

}  // namespace bhvit
