// The stem: patches of the image become tokens.

#include "engine/step.h"

namespace bhvit {
namespace {

class StemStep : public Step {
 public:
  StemStep(const Op& op, const ParameterSource& source) {
    Parameters p(op, source);
    const bool layer = layer_norm(op);
    args_ = {.height = op["height"],
             .width = op["width"],
             .in_chans = op["in_chans"],
             .patch = op["patch"],
             .kernel = op["kernel"],
             .channels = op["channels"],
             .weight = p.floats("weight"),
             .bias = p.floats("bias"),
             .norm_scale = layer ? p.floats("norm_scale") : nullptr,
             .norm_shift = layer ? p.floats("norm_shift") : nullptr,
             .gelu = op.is("activation", "gelu"),
             .position = p.floats("position"),
             .image = nullptr,
             .x = nullptr};
  }

  bool in_place() const override { return false; }
  void place(Workspace& memory) override { args_.x = memory.output(); }

  void run(const RunContext& context) const override {
    StemArgs args = args_;
    args.image = context.image;
    context.pool->run(args.height, 1,
                      [&](long begin, long end, int) { context.kernels->ops.stem.rows(args, begin, end); });
  }

 private:
  StemArgs args_;
};

}  // namespace

std::unique_ptr<Step> make_stem(const Op& op, const ParameterSource& source) {
  return std::make_unique<StemStep>(op, source);
}

}  // namespace bhvit
