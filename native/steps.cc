#include "steps.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace bhvit {
namespace {

constexpr long kTokenGrain = 8;  // tokens that a thread takes at least

long divide_up(long a, long b) { return (a + b - 1) / b; }
long round_up(long a, long b) { return divide_up(a, b) * b; }
size_t block(long bytes) { return static_cast<size_t>(round_up(bytes, static_cast<long>(kAlignment))); }

// The parameters of one op, copied into aligned memory.
class Parameters {
 public:
  Parameters(const Op& op, Plan& plan) : op_(op), plan_(plan) {}

  const float* floats(const char* name) { return scaled(name, 1.0f); }
  // Kernels count differing bits from -K/2 up: a product is -2 times that, and the factor is put here.
  const float* scale2(const char* name) { return scaled(name, -2.0f); }

  const uint32_t* bits(const char* name) { return mutable_bits(name); }
  uint32_t* mutable_bits(const char* name) {
    const std::vector<uint32_t> words = tensor(name).words();
    uint32_t* copy = plan_.arena->take<uint32_t>(words.size());
    std::copy(words.begin(), words.end(), copy);
    return copy;
  }

 private:
  const Tensor& tensor(const char* name) { return plan_.model->tensors.at(op_.name + "." + name); }

  float* scaled(const char* name, float factor) {
    const std::vector<float> values = tensor(name).floats();
    float* copy = plan_.arena->take<float>(static_cast<size_t>(round_up(static_cast<long>(values.size()), kLanes)));
    std::transform(values.begin(), values.end(), copy, [factor](float v) { return v * factor; });
    return copy;
  }

  const Op& op_;
  Plan& plan_;
};

class StemStep : public Step {
 public:
  StemStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    args_ = {op["height"], op["width"], op["in_chans"], op["patch"], op["channels"],
             p.floats("weight"), p.floats("bias"), p.floats("position"), nullptr, plan.x()};
  }

  void run(const Machine& m) const override {
    StemArgs args = args_;
    args.image = m.image;
    m.pool->run(args.height, 1, [&](long begin, long end, int) { m.kernels->stem(args, begin, end); });
  }

 private:
  StemArgs args_;
};

void run_norm(const Machine& m, const NormArgs& args, long tokens) {
  m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int) { m.kernels->norm(args, begin, end); });
}

class MixerStep : public Step {
 public:
  MixerStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = op["channels"];
    args_.groups = op["groups"];
    const long inputs = 9 * args_.channels / args_.groups;
    args_.words = divide_up(inputs, kWordBits);
    args_.plane_stride = args_.width + 2 * kBorder;
    args_.plane_size = (args_.height + 2 * kBorder) * args_.plane_stride;
    args_.row_stride = round_up(args_.width, kLanes);
    args_.norm_scale = p.floats("norm_scale");
    args_.norm_shift = p.floats("norm_shift");
    args_.out_scale = p.floats("out_scale");
    args_.out_shift = p.floats("out_shift");
    uint32_t* weight = p.mutable_bits("weight");
    clear_tails(weight, inputs);
    args_.weight = weight;
    args_.scale2 = p.scale2("scale");
    args_.shift = p.floats("shift");
    args_.slope = p.floats("slope");
    args_.start = make_starts(*plan.arena);
    uint16_t*& planes = plan.planes[{args_.height, args_.width, args_.channels}];
    if (!planes) planes = plan.arena->take<uint16_t>(static_cast<size_t>(args_.channels / kLanes * args_.plane_size));
    args_.planes = planes;
    args_.x = plan.x();
  }

  static size_t scratch_bytes(const Op& op) {
    const long words = divide_up(9 * op["channels"] / op["groups"], kWordBits);
    return block(kDilations * op["groups"] * words * round_up(op["width"], kLanes) * 4);
  }

  void run(const Machine& m) const override {
    m.pool->run(args_.height, 1, [&](long begin, long end, int) { m.kernels->mixer_bits(args_, begin, end); });
    m.pool->run(args_.height, 1, [&](long begin, long end, int thread) {
      m.kernels->mixer_conv(args_, begin, end, m.scratch[static_cast<size_t>(thread)]);
    });
  }

 private:
  // Bits past a weight's last input have no meaning; here they must be zero, as those of the inputs are.
  void clear_tails(uint32_t* weight, long inputs) const {
    if (inputs % kWordBits == 0) return;
    const uint32_t kept = (uint32_t{1} << inputs % kWordBits) - 1;
    for (long tile = 0; tile < kDilations * args_.channels / kLanes; tile++) {
      for (long l = 0; l < kLanes; l++) weight[((tile + 1) * args_.words - 1) * kLanes + l] &= kept;
    }
  }

  const int32_t* make_starts(Arena& arena) const {
    const long channels = args_.channels, inputs = channels / args_.groups, halves = inputs / kLanes;
    int32_t* starts = arena.take<int32_t>(static_cast<size_t>(kDilations * kBorderClasses * channels));
    for (long d = 0; d < kDilations; d++) {
      for (long o = 0; o < channels; o++) {
        const uint32_t* weight = args_.weight + (d * channels / kLanes + o / kLanes) * args_.words * kLanes + o % kLanes;
        long ones[9] = {};  // set weight bits of each tap
        for (long q = 0; q < 9 * halves; q++) {
          ones[q / halves] += std::popcount(static_cast<uint16_t>(weight[q / 2 * kLanes] >> (q % 2 * 16)));
        }
        for (long c = 0; c < kBorderClasses; c++) {
          const long row_class = c / 4, column_class = c % 4;
          long correction = 0;
          for (long tap = 0; tap < 9; tap++) {
            const bool absent = (tap / 3 == 0 && (row_class & 1)) || (tap / 3 == 2 && (row_class & 2)) ||
                                (tap % 3 == 0 && (column_class & 1)) || (tap % 3 == 2 && (column_class & 2));
            if (absent) correction += 2 * ones[tap] - inputs;
          }
          starts[(d * kBorderClasses + c) * channels + o] = static_cast<int32_t>(-(9 * inputs + correction) / 2);
        }
      }
    }
    return starts;
  }

  MixerArgs args_{};
};

// The cyclic neighbours of i: i-1, i+1, i-2, i+2, in the order of ops.TAPS.
const int32_t* make_wraps(long edge, Arena& arena) {
  int32_t* wraps = arena.take<int32_t>(static_cast<size_t>(4 * edge));
  constexpr long kOffsets[4] = {-1, 1, -2, 2};
  for (long k = 0; k < 4; k++) {
    for (long i = 0; i < edge; i++) wraps[k * edge + i] = static_cast<int32_t>(((i + kOffsets[k]) % edge + edge) % edge);
  }
  return wraps;
}

long mlp_period(const Op& op) { return std::lcm(op["channels"] * op["channels"] / op["hidden"], kLanes); }

class MlpStep : public Step {
 public:
  MlpStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    float* n = reinterpret_cast<float*>(plan.shared);
    args_ = {op["height"], op["width"], op["channels"], op["hidden"], mlp_period(op),
             p.floats("threshold1"), p.scale2("scale2"), p.floats("shift2"), p.floats("slope2"),
             p.floats("out_scale"), p.floats("out_shift"), p.bits("weight1"), p.bits("weight2"),
             p.scale2("scale1"), p.floats("shift1"), p.floats("slope1"), p.floats("threshold2"), p.floats("taps"),
             make_wraps(op["height"], *plan.arena), make_wraps(op["width"], *plan.arena), n, plan.x()};
    norm_ = {op["channels"], p.floats("norm_scale"), p.floats("norm_shift"), plan.x(), n};
  }

  static size_t shared_bytes(const Op& op) { return block(op["height"] * op["width"] * op["channels"] * 4); }
  static size_t scratch_bytes(const Op& op) {
    const long channels = op["channels"], hidden = op["hidden"];
    return block(kMaxBlock * hidden / channels * mlp_period(op) * 4) + block(kMaxBlock * channels * 4) +
           block(kMaxBlock * channels / 8) + block(kMaxBlock * hidden / 8);
  }

  void run(const Machine& m) const override {
    const long tokens = args_.height * args_.width;
    run_norm(m, norm_, tokens);
    m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->mlp(args_, begin, end, m.scratch[static_cast<size_t>(thread)]);
    });
  }

 private:
  MlpArgs args_;
  NormArgs norm_;
};

class AttentionStep : public Step {
 public:
  AttentionStep(const Op& op, Plan& plan) {
    const long tokens = op["height"] * op["width"], channels = op["channels"], windows = window_count(op);
    const long rows = tokens + windows, keys = key_count(op);
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.heads = op["heads"];
    args_.window_h = op["window_h"];
    args_.window_w = op["window_w"];
    args_.windows = windows;
    args_.keys = keys;
    args_.key_words = divide_up(keys, kWordBits);
    const std::pair<const float * AttentionArgs::*, const char*> floats[] = {
        {&AttentionArgs::pool_max, "pool_max"},           {&AttentionArgs::pool_avg, "pool_avg"},
        {&AttentionArgs::token_scale, "token_scale"},     {&AttentionArgs::token_shift, "token_shift"},
        {&AttentionArgs::in_threshold, "in_threshold"},   {&AttentionArgs::qkv_shift, "qkv_shift"},
        {&AttentionArgs::qkv_slope, "qkv_slope"},         {&AttentionArgs::qkv_threshold, "qkv_threshold"},
        {&AttentionArgs::exp_table, "exp_table"},         {&AttentionArgs::level_scale, "level_scale"},
        {&AttentionArgs::level_shift, "level_shift"},     {&AttentionArgs::ctx_scale, "ctx_scale"},
        {&AttentionArgs::ctx_shift, "ctx_shift"},         {&AttentionArgs::ctx_slope, "ctx_slope"},
        {&AttentionArgs::mix_local, "mix_local"},         {&AttentionArgs::mix_global, "mix_global"},
        {&AttentionArgs::mix_shift, "mix_shift"},         {&AttentionArgs::proj_threshold, "proj_threshold"},
        {&AttentionArgs::proj_shift, "proj_shift"},       {&AttentionArgs::proj_slope, "proj_slope"},
        {&AttentionArgs::out_scale, "out_scale"},         {&AttentionArgs::out_shift, "out_shift"}};
    for (const auto& [member, name] : floats) args_.*member = p.floats(name);
    args_.qkv_scale2 = p.scale2("qkv_scale");
    args_.proj_scale2 = p.scale2("proj_scale");
    args_.qkv_weight = p.bits("qkv_weight");
    args_.proj_weight = p.bits("proj_weight");
    char* next = plan.shared;
    const auto take = [&](long bytes) {
      char* part = next;
      next += block(bytes);
      return part;
    };
    args_.n = reinterpret_cast<float*>(take(rows * channels * 4));
    args_.context = reinterpret_cast<float*>(take(rows * channels * 4));
    args_.pooled = reinterpret_cast<float*>(take(windows * channels * 4));
    args_.signs = reinterpret_cast<uint16_t*>(take(kProjections * rows * channels / 8));
    args_.x = plan.x();
    norm_ = {channels, p.floats("norm_scale"), p.floats("norm_shift"), plan.x(), args_.n};
  }

  static size_t shared_bytes(const Op& op) {
    const long channels = op["channels"], windows = window_count(op), rows = op["height"] * op["width"] + windows;
    return 2 * block(rows * channels * 4) + block(windows * channels * 4) + block(kProjections * rows * channels / 8);
  }
  static size_t scratch_bytes(const Op& op) {
    const long channels = op["channels"], depth = channels / op["heads"], keys = key_count(op);
    const long keys16 = round_up(keys, kLanes), key_words = divide_up(keys, kWordBits);
    const size_t project = block(kMaxBlock * channels * 4) + block(kProjections * kMaxBlock * channels / 8);
    const size_t heads = block(keys16 * depth / 8) + block(depth * key_words * 4) + block(kMaxBlock * depth / 8) +
                         block(kMaxBlock * keys16 * 4) + block(kMaxBlock * 2 * key_words * 4) +
                         block(key_words * kWordBits * 4);
    return std::max(project, heads);
  }

  void run(const Machine& m) const override {
    const AttentionArgs& a = args_;
    const long tokens = a.height * a.width;
    const auto scratch = [&](int thread) { return m.scratch[static_cast<size_t>(thread)]; };
    run_norm(m, norm_, tokens);
    m.pool->run(a.windows, 1, [&](long begin, long end, int) { m.kernels->attention_pool(a, begin, end); });
    m.pool->run(tokens + a.windows, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->attention_project(a, begin, end, scratch(thread));
    });
    m.pool->run(a.heads, 1, [&](long begin, long end, int thread) {
      m.kernels->attention_heads(a, begin, end, scratch(thread));
    });
    m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->attention_output(a, begin, end, scratch(thread));
    });
  }

 private:
  static long window_count(const Op& op) { return op["height"] / op["window_h"] * (op["width"] / op["window_w"]); }
  static long key_count(const Op& op) { return op["window_h"] * op["window_w"] + window_count(op); }

  AttentionArgs args_{};
  NormArgs norm_;
};

class DownsampleStep : public Step {
 public:
  DownsampleStep(const Op& op, Plan& plan) : binary_(op.rule->kind == "downsample") {
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = op["channels"];
    args_.out_channels = op["out_channels"];
    args_.position = p.floats("position");
    if (binary_) {
      args_.norm_scale = p.floats("norm_scale");
      args_.norm_shift = p.floats("norm_shift");
      args_.threshold = p.floats("threshold");
      args_.weight = p.bits("weight");
      args_.scale2 = p.scale2("scale");
      args_.shift = p.floats("shift");
      args_.slope = p.floats("slope");
      args_.out_shift = p.floats("out_shift");
    } else {
      args_.weight_float = p.floats("weight");
      args_.bias = p.floats("bias");
    }
    args_.x = plan.x();
    plan.current ^= 1;
    args_.out = plan.x();
  }

  static size_t scratch_bytes(const Op& op) {
    return block(kMaxBlock * op["channels"] * 4) + block(kMaxBlock * op["channels"] / 2);
  }

  void run(const Machine& m) const override {
    m.pool->run(args_.height / 2 * (args_.width / 2), kTokenGrain, [&](long begin, long end, int thread) {
      if (binary_) {
        m.kernels->downsample(args_, begin, end, m.scratch[static_cast<size_t>(thread)]);
      } else {
        m.kernels->downsample_float(args_, begin, end);
      }
    });
  }

 private:
  bool binary_;
  DownsampleArgs args_{};
};

class HeadStep : public Step {
 public:
  HeadStep(const Op& op, Plan& plan) {
    Parameters p(op, plan);
    const long classes = round_up(op["classes"], kLanes);
    args_ = {op["height"] * op["width"], op["channels"], op["classes"],
             p.floats("norm_scale"), p.floats("norm_shift"), p.floats("weight"), p.floats("bias"), plan.x(),
             plan.arena->take<float>(static_cast<size_t>(op["channels"])),
             plan.arena->take<float>(static_cast<size_t>(classes))};
    output = args_.logits;
  }

  void run(const Machine& m) const override {
    m.pool->run(args_.channels / kLanes, 4, [&](long begin, long end, int) {
      m.kernels->head_features(args_, begin, end);
    });
    m.pool->run(divide_up(args_.classes, kLanes), 8, [&](long begin, long end, int) {
      m.kernels->head_logits(args_, begin, end);
    });
  }

 private:
  HeadArgs args_;
};

}  // namespace

Needs needs_of(const std::vector<Op>& ops) {
  Needs needs;
  for (const Op& op : ops) {
    const std::string& kind = op.rule->kind;
    if (kind != "head") {
      const std::vector<int64_t> out = op.output();
      needs.grid_floats = std::max(needs.grid_floats, static_cast<size_t>(out[0] * out[1] * out[2]));
    }
    size_t shared = 0, scratch = 0;
    if (kind == "mixer") scratch = MixerStep::scratch_bytes(op);
    if (kind == "mlp") shared = MlpStep::shared_bytes(op), scratch = MlpStep::scratch_bytes(op);
    if (kind == "attention") shared = AttentionStep::shared_bytes(op), scratch = AttentionStep::scratch_bytes(op);
    if (kind == "downsample") scratch = DownsampleStep::scratch_bytes(op);
    needs.shared = std::max(needs.shared, shared);
    needs.scratch = std::max(needs.scratch, scratch);
  }
  return needs;
}

std::unique_ptr<Step> make_step(const Op& op, Plan& plan) {
  const std::string& kind = op.rule->kind;
  std::unique_ptr<Step> step;
  if (kind == "stem") step = std::make_unique<StemStep>(op, plan);
  if (kind == "mixer") step = std::make_unique<MixerStep>(op, plan);
  if (kind == "mlp") step = std::make_unique<MlpStep>(op, plan);
  if (kind == "attention") step = std::make_unique<AttentionStep>(op, plan);
  if (kind == "downsample" || kind == "downsample_float") step = std::make_unique<DownsampleStep>(op, plan);
  if (kind == "head") step = std::make_unique<HeadStep>(op, plan);
  if (!step) throw FormatError("op " + op.name + ": this engine has no kernel for " + kind);
  step->op = &op;
  if (!step->output) step->output = plan.x();
  return step;
}

}  // namespace bhvit
