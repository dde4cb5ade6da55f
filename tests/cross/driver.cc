// Runs a packed model without Python, for machines that are emulated: `driver MODEL IMAGES OUT [ISA]`.
//
// IMAGES holds float32 images one after another. OUT gets, for each instruction set that runs here (or ISA alone), a
// line with its name and the count of floats that follow: x after every op of every image, then the logits of
// all images run as one batch, and of a segmentation the labels of their pixels. Exit status 1 with a line on stderr tells what is wrong with the model.

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/dispatch.h"
#include "engine/program.h"

namespace {

std::string read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<float> values_of(bhvit::Program& program, const std::string& bytes) {
  const std::vector<int64_t> shape = program.input_shape();
  const size_t size = static_cast<size_t>(shape[0] * shape[1] * shape[2]), count = bytes.size() / 4 / size;
  std::vector<float> images(size * count), out;
  bytes.copy(reinterpret_cast<char*>(images.data()), 4 * images.size());
  for (size_t i = 0; i < count; i++) {
    for (const bhvit::Program::Traced& step : program.trace(images.data() + i * size)) {
      out.insert(out.end(), step.values.begin(), step.values.end());
    }
  }
  std::vector<float> logits(count * static_cast<size_t>(program.logit_floats()));
  program.run(images.data(), static_cast<long>(count), logits.data());
  out.insert(out.end(), logits.begin(), logits.end());
  if (program.segments()) {
    std::vector<uint8_t> labels(count * static_cast<size_t>(shape[1] * shape[2]));
    program.segment(images.data(), static_cast<long>(count), labels.data());
    out.insert(out.end(), labels.begin(), labels.end());
  }
  return out;
}

void run(int count, char** arguments) {
  if (count < 4) throw std::runtime_error("usage: driver MODEL IMAGES OUT [ISA]");
  const std::string model = read(arguments[1]), images = read(arguments[2]);
  std::ofstream out(arguments[3], std::ios::binary);
  for (const std::string& isa : count > 4 ? std::vector<std::string>{arguments[4]} : bhvit::available_isas()) {
    bhvit::Program program(model, bhvit::ProgramOptions{.isa = isa});
    const std::vector<float> values = values_of(program, images);
    out << program.isa() << ' ' << values.size() << '\n';
    out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(4 * values.size()));
  }
  if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + arguments[3]);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(count, arguments);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
