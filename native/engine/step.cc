#include "engine/step.h"

namespace bhvit {

// Each kind of op has such a function in engine/steps/.
#define BHVIT_DECLARE(kind) std::unique_ptr<Step> make_##kind(const Op& op, const ParameterSource& source);
BHVIT_OPS(BHVIT_DECLARE)

namespace {

struct StepFactory {
  const char* kind;
  std::unique_ptr<Step> (*make)(const Op& op, const ParameterSource& source);
};

#define BHVIT_FACTORY(kind) {#kind, make_##kind},
constexpr StepFactory kFactories[] = {BHVIT_OPS(BHVIT_FACTORY)};

}  // namespace

NormArgs norm_args(const Op& op, Parameters& p) {
  return {.channels = op["channels"],
          .layer = layer_norm(op),
          .scale = p.floats("norm_scale"),
          .shift = p.floats("norm_shift"),
          .x = nullptr,
          .n = nullptr};
}

void run_norm(const RunContext& context, const NormArgs& args, long tokens) {
  context.pool->run(tokens, kTokenGrain, [&](long begin, long end, int) { context.kernels->norm(args, begin, end); });
}

std::unique_ptr<Step> make_step(const Op& op, const ParameterSource& source) {
  for (const StepFactory& factory : kFactories) {
    if (op.rule->kind != factory.kind) continue;
    std::unique_ptr<Step> step = factory.make(op, source);
    step->op = &op;
    return step;
  }
  throw FormatError("op " + op.name + ": this engine has no kernel for " + std::string(op.rule->kind));
}

void place(const std::vector<std::unique_ptr<Step>>& steps, Workspace& memory) {
  for (size_t i = 0; i < steps.size(); i++) {
    memory.start_step(i);
    steps[i]->place(memory);
    if (i + 1 < steps.size()) steps[i]->output = memory.output();  // what the last one writes is no grid
  }
}

}  // namespace bhvit
