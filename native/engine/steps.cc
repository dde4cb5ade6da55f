#include "engine/steps.h"

#include <numeric>

#include "engine/step_parts.h"

namespace bhvit {
namespace {

class StemStep : public Step {
 public:
  StemStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    args_ = {op["height"], op["width"], op["in_chans"], op["patch"], op["channels"],
             p.floats("weight"), p.floats("bias"),
             layer_norm(op) ? p.floats("norm_scale") : nullptr, layer_norm(op) ? p.floats("norm_shift") : nullptr,
             op.is("activation", "gelu"), p.floats("position"), nullptr, plan.x()};
  }

  void run(const Machine& m) const override {
    StemArgs args = args_;
    args.image = m.image;
    m.pool->run(args.height, 1, [&](long begin, long end, int) { m.kernels->stem(args, begin, end); });
  }

 private:
  StemArgs args_;
};

// The neighbours of i: i-1, i+1, i-2, i+2, in the order of ops.TAPS; cyclic, or -1 beyond the edge.
const int32_t* make_wraps(long edge, bool cyclic, Arena& arena) {
  int32_t* wraps = arena.take<int32_t>(static_cast<size_t>(4 * edge));
  constexpr long kOffsets[4] = {-1, 1, -2, 2};
  for (long k = 0; k < 4; k++) {
    for (long i = 0; i < edge; i++) {
      const long at = i + kOffsets[k], wrapped = (at % edge + edge) % edge;
      wraps[k * edge + i] = static_cast<int32_t>(cyclic || at == wrapped ? wrapped : -1);
    }
  }
  return wraps;
}

long mlp_period(const Op& op) { return std::lcm(op["channels"] * op["channels"] / op["hidden"], kLanes); }

class MlpStep : public Step {
 public:
  MlpStep(const Op& op, Plan& plan) : fused_(fused(op)) {
    const long channels = op["channels"], hidden = op["hidden"];
    const bool cyclic = op.is("border", "cyclic");
    Parameters p(op, plan);
    float* n = Shared(plan).take<float>(op["height"] * op["width"] * channels);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.hidden = hidden;
    args_.period = mlp_period(op);
    p.linear(&args_.first, 1, {"weight1", "threshold1", "scale1", "shift1", "weight_scale1"}, channels, hidden);
    p.linear(&args_.second, 1, {"weight2", "threshold2", "scale2", "shift2", "weight_scale2"}, hidden, channels);
    args_.slope1 = p.floats("slope1");
    args_.slope2 = p.floats("slope2");
    args_.out_scale = p.floats("out_scale");
    args_.out_shift = p.floats("out_shift");
    args_.taps = p.floats("taps");
    args_.wrap_rows = make_wraps(op["height"], cyclic, *plan.arena);
    args_.wrap_columns = make_wraps(op["width"], cyclic, *plan.arena);
    args_.zeros = cyclic ? nullptr : p.constant(channels, 0.0f);
    args_.n = n;
    args_.x = plan.x();
    norm_ = norm_args(op, p, plan.x(), n);
  }

  static Needs needs(const Op& op) {
    const long channels = op["channels"], hidden = op["hidden"];
    const size_t common = block(kMaxBlock * hidden / channels * mlp_period(op) * 4) + block(kMaxBlock * channels * 4);
    return {0, block(op["height"] * op["width"] * channels * 4),
            common + (fused(op) ? block(kMaxBlock * channels / 8) + block(kMaxBlock * hidden / 8)
                                : block(kMaxBlock * hidden * 4) + linear_bytes(hidden, hidden))};
  }

  void run(const Machine& m) const override {
    const long tokens = args_.height * args_.width;
    if (!normed_) run_norm(m, norm_, tokens);
    m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? m.kernels->mlp : m.kernels->mlp_general)(args_, begin, end, m.scratch[static_cast<size_t>(thread)]);
    });
  }

  const NormArgs* first_norm() const override { return norm_.layer ? nullptr : &norm_; }
  void norm_is_done() override { normed_ = true; }
  bool do_norm(const NextNorm& next) override {
    if (next.n == args_.n) return false;  // another MLP's: this one's is still being read when the first tokens leave
    args_.next = next;
    return true;
  }

 private:
  bool fused_, normed_ = false;  // normed_: the step before left n
  MlpArgs args_{};
  NormArgs norm_;
};

class DownsampleStep : public Step {
 public:
  DownsampleStep(const Op& op, Plan& plan) : binary_(op.rule->kind == "downsample"), fused_(binary_ && fused(op)) {
    const long channels = op["channels"], outputs = op["out_channels"];
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.out_channels = outputs;
    args_.position = p.floats("position");
    args_.x = plan.x();
    if (normed(op)) {
      float* n = Shared(plan).take<float>(args_.height * args_.width * channels);
      norm_ = norm_args(op, p, plan.x(), n);
      args_.x = n;
    }
    if (binary_) {
      args_.norm_scale = p.floats("norm_scale");
      args_.norm_shift = p.floats("norm_shift");
      p.linear(&args_.conv, 1, {"weight", "threshold", "scale", "shift", "weight_scale"}, 4 * channels, outputs);
      args_.conv.threshold = repeat(args_.conv.threshold, channels, *plan.arena);
      args_.slope = p.floats("slope");
      args_.out_shift = p.floats("out_shift");
    } else {
      args_.weight_float = p.floats("weight");
      const bool layer = layer_norm(op);
      args_.bias = layer ? nullptr : p.floats("bias");
      args_.scale = layer ? p.floats("scale") : nullptr;
      args_.shift = layer ? p.floats("shift") : nullptr;
    }
    plan.current ^= 1;
    args_.out = plan.x();
  }

  static Needs needs(const Op& op) {
    const long channels = op["channels"];
    const size_t general = block(kMaxBlock * channels * 16) + block(kMaxBlock * channels * 4) +
                           linear_bytes(4 * channels, op["out_channels"]);
    return {0, normed(op) ? block(op["height"] * op["width"] * channels * 4) : 0,
            std::max(general, block(kMaxBlock * channels * 4) + block(kMaxBlock * channels / 2))};
  }

  void run(const Machine& m) const override {
    if (norm_.n) run_norm(m, norm_, args_.height * args_.width);
    m.pool->run(args_.height / 2 * (args_.width / 2), kTokenGrain, [&](long begin, long end, int thread) {
      char* scratch = m.scratch[static_cast<size_t>(thread)];
      if (fused_) {
        m.kernels->downsample(args_, begin, end, scratch);
      } else if (binary_) {
        m.kernels->downsample_general(args_, begin, end, scratch);
      } else {
        m.kernels->downsample_float(args_, begin, end);
      }
    });
  }

 private:
  // Whether the grid is normalised before the kernel reads it.
  static bool normed(const Op& op) { return op.rule->kind == "downsample" ? !fused(op) : layer_norm(op); }

  static const float* repeat(const float* threshold, long channels, Arena& arena) {
    float* repeated = arena.take<float>(static_cast<size_t>(4 * channels));
    for (long i = 0; i < 4 * channels; i++) repeated[i] = threshold[i % channels];
    return repeated;
  }

  bool binary_, fused_;
  DownsampleArgs args_{};
  NormArgs norm_{};
};

class HeadStep : public Step {
 public:
  HeadStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    const long classes = round_up(op["classes"], kLanes), tokens = op["height"] * op["width"];
    float* n = layer_norm(op) ? Shared(plan).take<float>(tokens * op["channels"]) : nullptr;
    if (n) norm_ = norm_args(op, p, plan.x(), n);
    const uint16_t* half = p.half_precision("weight");
    args_ = {tokens, op["channels"], op["classes"], n ? nullptr : p.floats("norm_scale"),
             n ? nullptr : p.floats("norm_shift"), half ? nullptr : p.floats("weight"), half, p.floats("bias"),
             n ? n : plan.x(),
             plan.arena->take<float>(static_cast<size_t>(op["channels"])),
             plan.arena->take<float>(static_cast<size_t>(classes))};
    output = args_.logits;
  }

  static Needs needs(const Op& op) {
    return {0, layer_norm(op) ? block(op["height"] * op["width"] * op["channels"] * 4) : 0, 0};
  }

  void run(const Machine& m) const override {
    if (norm_.n) run_norm(m, norm_, args_.tokens);
    m.pool->run(args_.channels / kLanes, 4, [&](long begin, long end, int) {
      m.kernels->head_features(args_, begin, end);
    });
    m.pool->run(divide_up(args_.classes, kLanes), 8, [&](long begin, long end, int) {
      m.kernels->head_logits(args_, begin, end);
    });
  }

 private:
  HeadArgs args_;
  NormArgs norm_{};
};

// What makes the step of a kind, and what the step needs.
struct Maker {
  const char* kind;
  std::unique_ptr<Step> (*make)(const Op& op, Plan& plan);
  Needs (*needs)(const Op& op);
};

template <class T>
std::unique_ptr<Step> make(const Op& op, Plan& plan) {
  return std::make_unique<T>(op, plan);
}

const Maker kMakers[] = {
    {"stem", make<StemStep>, [](const Op&) { return Needs{}; }},
    {"mixer", make_mixer, mixer_needs},
    {"pooling", make_pooling, pooling_needs},
    {"mlp", make<MlpStep>, MlpStep::needs},
    {"attention", make_attention, attention_needs},
    {"pooled_attention", make_pooled_attention, pooled_attention_needs},
    {"downsample", make<DownsampleStep>, DownsampleStep::needs},
    {"downsample_float", make<DownsampleStep>, DownsampleStep::needs},
    {"head", make<HeadStep>, HeadStep::needs},
};

const Maker& maker_of(const Op& op) {
  for (const Maker& maker : kMakers) {
    if (op.rule->kind == maker.kind) return maker;
  }
  throw FormatError("op " + op.name + ": this engine has no kernel for " + op.rule->kind);
}

}  // namespace

Needs needs_of(const std::vector<Op>& ops) {
  Needs most;
  for (const Op& op : ops) {
    if (op.rule->kind != "head") {
      const std::vector<int64_t> out = op.output();
      most.grid_floats = std::max(most.grid_floats, static_cast<size_t>(out[0] * out[1] * out[2]));
    }
    const Needs needs = maker_of(op).needs(op);
    most.shared = std::max(most.shared, needs.shared);
    most.scratch = std::max(most.scratch, needs.scratch);
  }
  return most;
}

std::unique_ptr<Step> make_step(const Op& op, Plan& plan) {
  std::unique_ptr<Step> step = maker_of(op).make(op, plan);
  step->op = &op;
  if (!step->output) step->output = plan.x();
  return step;
}

}  // namespace bhvit
