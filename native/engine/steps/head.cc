// The classifier: the mean of all tokens, then a linear layer.

#include "engine/step.h"

namespace bhvit {
namespace {

class HeadStep : public Step {
 public:
  HeadStep(const Op& op, const ParameterSource& source) {
    Parameters p(op, source);
    const bool layer = layer_norm(op);
    if (layer) norm_ = norm_args(op, p);
    const uint16_t* half = p.half_precision("weight");
    args_ = {.tokens = op["height"] * op["width"],
             .channels = op["channels"],
             .classes = op["classes"],
             .norm_scale = layer ? nullptr : p.floats("norm_scale"),
             .norm_shift = layer ? nullptr : p.floats("norm_shift"),
             .weight = half ? nullptr : p.floats("weight"),
             .half_weight = half,
             .bias = p.floats("bias"),
             .x = nullptr,
             .features = p.take<float>(op["channels"]),
             .logits = p.take<float>(round_up(op["classes"], kLanes))};
    output = args_.logits;
    features = args_.features;
  }

  bool in_place() const override { return false; }

  void place(Workspace& memory) override {
    args_.x = norm_.x = memory.input(0);
    if (!args_.norm_scale) args_.x = norm_.n = memory.shared<float>(args_.tokens * args_.channels);
  }

  void run(const RunContext& context) const override {
    if (!args_.norm_scale) run_norm(context, norm_, args_.tokens);
    context.pool->run(args_.channels / kLanes, 4,
                      [&](long begin, long end, int) { context.kernels->ops.head.features(args_, begin, end); });
    context.pool->run(divide_up(args_.classes, kLanes), 8,
                      [&](long begin, long end, int) { context.kernels->ops.head.logits(args_, begin, end); });
  }

 private:
  HeadArgs args_;
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_head(const Op& op, const ParameterSource& source) {
  return std::make_unique<HeadStep>(op, source);
}

}  // namespace bhvit
