// Downsampling by a 2x2 convolution of signs, or by a layer of any kind.

#include "engine/step.h"

namespace bhvit {
namespace {

class DownsampleStep : public Step {
 public:
  DownsampleStep(const Op& op, const ParameterSource& source) : fused_(fused(op)) {
    const long channels = op["channels"], outputs = op["out_channels"];
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.out_channels = outputs;
    args_.position = p.floats("position");
    if (fused_) {
      args_.norm_scale = p.floats("norm_scale");
      args_.norm_shift = p.floats("norm_shift");
    } else {
      norm_ = norm_args(op, p);
    }
    p.linear(&args_.conv, 1, {"weight", "threshold", "scale", "shift", "weight_scale"}, 4 * channels, outputs);
    args_.conv.threshold = repeat(args_.conv.threshold, channels, p);
    args_.slope = p.floats("slope");
    args_.out_shift = p.floats("out_shift");
  }

  bool in_place() const override { return false; }

  void place(Workspace& memory) override {
    args_.x = norm_.x = memory.input(0);
    if (fused_) {
      memory.scratch<DownsampleScratch>(args_);
    } else {
      args_.x = norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
      memory.scratch<DownsampleGeneralScratch>(args_);
    }
    args_.out = memory.output();
  }

  void run(const RunContext& context) const override {
    if (!fused_) run_norm(context, norm_, args_.height * args_.width);
    const DownsampleKernels& kernels = context.kernels->ops.downsample;
    context.pool->run(args_.height / 2 * (args_.width / 2), kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? kernels.fused : kernels.general)(args_, begin, end, context.scratch[static_cast<size_t>(thread)]);
    });
  }

 private:
  static const float* repeat(const float* threshold, long channels, Parameters& p) {
    float* repeated = p.take<float>(4 * channels);
    for (long i = 0; i < 4 * channels; i++) repeated[i] = threshold[i % channels];
    return repeated;
  }

  bool fused_;
  DownsampleArgs args_{};
  NormArgs norm_{};  // not fused: the grid is normalised before the kernel reads it
};

}  // namespace

std::unique_ptr<Step> make_downsample(const Op& op, const ParameterSource& source) {
  return std::make_unique<DownsampleStep>(op, source);
}

}  // namespace bhvit
