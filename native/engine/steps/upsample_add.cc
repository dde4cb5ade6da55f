// The sum of a grid and a coarser one that is upsampled by 2 (nearest).

#include "engine/step.h"

namespace bhvit {
namespace {

class UpsampleAddStep : public Step {
 public:
  UpsampleAddStep(const Op& op, const ParameterSource&)
      : tokens_(op["height"] * op["width"]), args_{op["width"], op["channels"], nullptr, nullptr} {}

  void place(Workspace& memory) override {
    args_.coarse = memory.input(1);
    args_.x = memory.output();
  }

  void run(const RunContext& context) const override {
    context.pool->run(tokens_, kTokenGrain,
                      [&](long begin, long end, int) { context.kernels->ops.upsample_add.tokens(args_, begin, end); });
  }

 private:
  long tokens_;
  UpsampleAddArgs args_;
};

}  // namespace

std::unique_ptr<Step> make_upsample_add(const Op& op, const ParameterSource& source) {
  return std::make_unique<UpsampleAddStep>(op, source);
}

}  // namespace bhvit
