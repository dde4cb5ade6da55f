// The token mixer that is a mean over neighbours.

#include "engine/step.h"

namespace bhvit {
namespace {

class PoolingStep : public Step {
 public:
  PoolingStep(const Op& op, const ParameterSource& source) {
    Parameters p(op, source);
    norm_ = norm_args(op, p);
    args_ = {.height = op["height"],
             .width = op["width"],
             .channels = op["channels"],
             .layer = layer_norm(op),
             .out_scale = p.floats("out_scale"),
             .out_shift = p.floats("out_shift"),
             .n = nullptr,
             .x = nullptr};
  }

  void place(Workspace& memory) override {
    norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
    norm_.x = args_.x = memory.output();
    args_.n = norm_.n;
    memory.scratch<PoolingScratch>(args_);
  }

  void run(const RunContext& context) const override {
    const long tokens = args_.height * args_.width;
    run_norm(context, norm_, tokens);
    context.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      context.kernels->ops.pooling.tokens(args_, begin, end, context.scratch[static_cast<size_t>(thread)]);
    });
  }

 private:
  PoolingArgs args_;
  NormArgs norm_;
};

}  // namespace

std::unique_ptr<Step> make_pooling(const Op& op, const ParameterSource& source) {
  return std::make_unique<PoolingStep>(op, source);
}

}  // namespace bhvit
