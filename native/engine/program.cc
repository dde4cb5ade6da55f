#include "engine/program.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "engine/dispatch.h"
#include "engine/float_environment.h"

namespace bhvit {

struct Program::Running {
  explicit Running(Program& program) : turn(program.turn_) { program.pool_.restart_after_fork(); }

  const std::lock_guard<Turn> turn;
  const FloatEnvironment defaults;
};

Program::Program(std::string_view file, const ProgramOptions& options)
    : arena_(options.max_memory), pool_(options.threads) {
  context_.kernels = &kernels_for(options.isa);
  load(file, false);
}

Program::Program(std::shared_ptr<const FileBytes> file, const ProgramOptions& options)
    : file_(std::move(file)), arena_(options.max_memory), pool_(options.threads) {
  context_.kernels = &kernels_for(options.isa);
  load(file_->bytes(), true);
}

void Program::load(std::string_view file, bool borrowed) {
  const FloatEnvironment defaults;
  context_.pool = &pool_;
  Model model = read_model(file);
  ops_ = std::move(model.ops);
  class_names_ = std::move(model.class_names);
  preprocess_ = std::move(model.preprocess);
  calibration_ = std::move(model.calibration);
  if (borrowed) header_ = model.header;

  const ParameterSource source{model, borrowed, arena_, *context_.kernels};
  for (const Op& op : ops_) steps_.push_back(make_step(op, source));
  std::vector<bool> in_place;
  for (const auto& step : steps_) in_place.push_back(step->in_place());
  plan_ = GridPlan(ops_, in_place);
  Workspace counted(plan_);
  place(steps_, counted);
  arena_.check(counted.bytes(threads()));
  Workspace memory(counted, arena_, threads());
  place(steps_, memory);
  context_.scratch = memory.scratch_blocks();
  copies_.assign(steps_.size(), {nullptr, nullptr, 0});
  for (size_t i = 0; i < steps_.size(); i++) {
    if (!plan_.places[i].copied) continue;
    const std::vector<int64_t> grid = ops_[i].output();
    memory.start_step(i);
    copies_[i] = {memory.input(0), memory.output(), grid[0] * grid[1] * grid[2]};
  }
  for (size_t i = 1; i < steps_.size(); i++) {
    if (ops_[i].reads[0] != i - 1) continue;
    const NormArgs* norm = steps_[i]->first_norm();
    if (norm && steps_[i - 1]->do_norm({norm->scale, norm->shift, norm->n})) steps_[i]->norm_is_done();
  }
}

int64_t Program::logit_floats() const {
  const std::vector<int64_t> out = ops_.back().output();
  return out[0] * out[1] * out[2];
}

void Program::run_step(size_t index) const {
  const Copy& copy = copies_[index];
  if (copy.floats) std::copy_n(copy.from, copy.floats, copy.to);
  steps_[index]->run(context_);
}

long Program::run(const float* images, long count, float* logits, double seconds) {
  const int64_t floats = logit_floats();
  return run_images(images, count, seconds, [&](long i) {
    context_.labels = nullptr;
    context_.pixels = logits + i * floats;
    for (size_t step = 0; step < steps_.size(); step++) run_step(step);
    if (!segments()) std::copy_n(steps_.back()->output, floats, logits + i * floats);
  });
}

long Program::segment(const float* images, long count, uint8_t* labels, double seconds) {
  if (!segments()) throw std::invalid_argument("the model classifies images; it has no labels of pixels");
  const std::vector<int64_t> shape = input_shape();
  return run_images(images, count, seconds, [&](long i) {
    context_.labels = labels + i * shape[1] * shape[2];
    for (size_t step = 0; step < steps_.size(); step++) run_step(step);
  });
}

long Program::embed(const float* images, long count, float* features, double seconds) {
  if (segments()) throw std::invalid_argument("the model labels pixels; only a model that classifies has features");
  return run_images(images, count, seconds, [&](long i) {
    for (size_t step = 0; step < steps_.size(); step++) run_step(step);
    std::copy_n(steps_.back()->features, this->features(), features + i * this->features());
  });
}

template <class Image>
long Program::run_images(const float* images, long count, double seconds, const Image& each) {
  using Clock = std::chrono::steady_clock;
  const Running running(*this);
  const Clock::time_point start = Clock::now();
  const std::vector<int64_t> shape = input_shape();
  const int64_t size = shape[0] * shape[1] * shape[2];
  for (long i = 0; i < count; i++) {
    context_.image = images + i * size;
    each(i);
    if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) return i + 1;
  }
  return count;
}

std::vector<Program::Traced> Program::trace(const float* image) {
  const Running running(*this);
  std::vector<Traced> traced;
  context_.image = image;
  std::vector<float> pixels(segments() ? static_cast<size_t>(logit_floats()) : 0);
  context_.labels = nullptr;
  context_.pixels = pixels.data();
  for (size_t i = 0; i < steps_.size(); i++) {
    run_step(i);
    const Step& step = *steps_[i];
    std::vector<int64_t> shape = step.op->output();
    const int64_t size = shape[0] * shape[1] * shape[2];
    if (i + 1 == steps_.size()) shape = segments() ? std::vector{shape[2], shape[0], shape[1]} : std::vector{size};
    const float* values = step.output ? step.output : pixels.data();
    traced.push_back({step.op->name, shape, std::vector<float>(values, values + size)});
  }
  return traced;
}

std::vector<Program::Timing> Program::profile(const float* image, int repeats) {
  using Clock = std::chrono::steady_clock;
  const Running running(*this);
  std::vector<std::vector<double>> times(steps_.size());
  context_.image = image;
  std::vector<uint8_t> labels(segments() ? static_cast<size_t>(logit_floats() / classes()) : 0);
  context_.labels = labels.data();  // null of no labels
  for (int repeat = 0; repeat < repeats; repeat++) {
    Clock::time_point before = Clock::now();
    for (size_t i = 0; i < steps_.size(); i++) {
      run_step(i);
      const Clock::time_point after = Clock::now();
      times[i].push_back(std::chrono::duration<double, std::nano>(after - before).count());
      before = after;
    }
  }
  std::vector<Timing> timings;
  for (size_t i = 0; i < steps_.size(); i++) {
    const auto middle = times[i].begin() + static_cast<long>(times[i].size() / 2);
    std::nth_element(times[i].begin(), middle, times[i].end());
    timings.push_back({steps_[i]->op->name, std::string(steps_[i]->op->rule->kind), *middle});
  }
  return timings;
}

std::vector<int64_t> Program::input_shape() const {
  const Op& stem = ops_.front();
  return {stem["in_chans"], stem["height"] * stem["patch"], stem["width"] * stem["patch"]};
}

}  // namespace bhvit
