// The classifier of pixels: a linear layer of each token, and its logits upsampled to the image.

#include "engine/step.h"

namespace bhvit {
namespace {

class SegmentStep : public Step {
 public:
  SegmentStep(const Op& op, const ParameterSource& source) {
    Parameters p(op, source);
    const bool layer = layer_norm(op);
    if (layer) norm_ = norm_args(op, p);
    args_ = {.height = op["height"],
             .width = op["width"],
             .channels = op["channels"],
             .classes = op["classes"],
             .scale = op["scale"],
             .stride = round_up(op["width"] + 2, kLanes) + kLanes,
             .norm_scale = layer ? nullptr : p.floats("norm_scale"),
             .norm_shift = layer ? nullptr : p.floats("norm_shift"),
             .weight = p.floats("weight"),
             .bias = p.floats("bias"),
             .x = nullptr,
             .planes = nullptr,
             .labels = nullptr,
             .pixels = nullptr};
  }

  bool in_place() const override { return false; }

  void place(Workspace& memory) override {
    args_.x = norm_.x = memory.input(0);
    if (!args_.norm_scale) args_.x = norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
    args_.planes = memory.shared<float>(args_.classes * args_.height * args_.stride);
    memory.scratch<SegmentScratch>(args_);
  }

  void run(const RunContext& context) const override {
    if (!args_.norm_scale) run_norm(context, norm_, args_.height * args_.width);
    SegmentArgs args = args_;
    args.labels = context.labels;
    args.pixels = context.pixels;
    const SegmentKernels& kernels = context.kernels->ops.segment;
    const auto scratch = [&](int thread) { return context.scratch[static_cast<size_t>(thread)]; };
    context.pool->run(args.height, 1,
                      [&](long begin, long end, int thread) { kernels.tokens(args, begin, end, scratch(thread)); });
    context.pool->run(args.height * args.scale, 4, [&](long begin, long end, int thread) {
      (args.labels ? kernels.labels : kernels.pixels)(args, begin, end, scratch(thread));
    });
  }

 private:
  SegmentArgs args_{};
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_segment(const Op& op, const ParameterSource& source) {
  return std::make_unique<SegmentStep>(op, source);
}

}  // namespace bhvit
