// A binary 1x1 unit of a segmentation's decoder.

#include "engine/step.h"

namespace bhvit {
namespace {

class LateralStep : public Step {
 public:
  LateralStep(const Op& op, const ParameterSource& source) : fused_(fused(op)), tokens_(op["height"] * op["width"]) {
    Parameters p(op, source);
    args_.channels = op["channels"];
    args_.outputs = op["out_channels"];
    p.linear(&args_.linear, 1, {"weight", "threshold", "scale", "shift", "weight_scale"}, args_.channels,
             args_.outputs);
    args_.slope = p.floats("slope");
    args_.out_shift = p.floats("out_shift");
    norm_ = norm_args(op, p);
  }

  bool in_place() const override { return false; }

  void place(Workspace& memory) override {
    norm_.x = memory.input(0);
    args_.n = norm_.n = memory.shared<float>(tokens_ * args_.channels);
    args_.out = memory.output();
    memory.scratch<LateralLayout>(args_);
  }

  void run(const RunContext& context) const override {
    run_norm(context, norm_, tokens_);
    const LateralKernels& kernels = context.kernels->ops.lateral;
    context.pool->run(tokens_, kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? kernels.fused : kernels.general)(args_, begin, end, context.scratch[static_cast<size_t>(thread)]);
    });
  }

 private:
  bool fused_;
  long tokens_;
  LateralArgs args_{};
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_lateral(const Op& op, const ParameterSource& source) {
  return std::make_unique<LateralStep>(op, source);
}

}  // namespace bhvit
