// Downsampling by a 2x2 convolution of floats.

#include "engine/step.h"

namespace bhvit {
namespace {

class DownsampleFloatStep : public Step {
 public:
  DownsampleFloatStep(const Op& op, const ParameterSource& source) : normed_(layer_norm(op)) {
    Parameters p(op, source);
    if (normed_) norm_ = norm_args(op, p);
    args_ = {.height = op["height"],
             .width = op["width"],
             .channels = op["channels"],
             .out_channels = op["out_channels"],
             .weight = p.floats("weight"),
             .bias = normed_ ? nullptr : p.floats("bias"),
             .scale = normed_ ? p.floats("scale") : nullptr,
             .shift = normed_ ? p.floats("shift") : nullptr,
             .position = p.floats("position"),
             .x = nullptr,
             .out = nullptr};
  }

  bool in_place() const override { return false; }

  void place(Workspace& memory) override {
    args_.x = norm_.x = memory.input(0);
    if (normed_) args_.x = norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
    args_.out = memory.output();
  }

  void run(const RunContext& context) const override {
    if (normed_) run_norm(context, norm_, args_.height * args_.width);
    context.pool->run(args_.height / 2 * (args_.width / 2), kTokenGrain, [&](long begin, long end, int) {
      context.kernels->ops.downsample_float.tokens(args_, begin, end);
    });
  }

 private:
  bool normed_;
  DownsampleFloatArgs args_;
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_downsample_float(const Op& op, const ParameterSource& source) {
  return std::make_unique<DownsampleFloatStep>(op, source);
}

}  // namespace bhvit
