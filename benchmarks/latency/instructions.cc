// Work whose instructions are counted; all input comes from stdin, because WebAssembly's interface has no files here.
//
//   instructions ISA TIMES FLOATS   stdin: an image of FLOATS float32, then a model. Runs it TIMES times, writes logits.
//   instructions ISA ROUNDS         The loop of XOR, population count and add on registers; prints how many it did.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/dispatch.h"
#include "engine/program.h"

int main(int count, char** arguments) {
  const std::string isa = arguments[1];
  const long times = std::atol(arguments[2]);
  if (count == 3) {
    int32_t sink[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    std::printf("%lld\n", static_cast<long long>(bhvit::kernels_for(isa).peak(times, sink)));
    return 0;
  }
  std::vector<float> image(static_cast<size_t>(std::atol(arguments[3])));
  if (std::fread(image.data(), sizeof(float), image.size(), stdin) != image.size()) return 1;
  std::string model(1 << 24, '\0');
  model.resize(std::fread(model.data(), 1, model.size(), stdin));
  bhvit::Program program(model, bhvit::ProgramOptions{.isa = isa});
  std::vector<float> logits(static_cast<size_t>(program.classes()));
  for (long i = 0; i < times; i++) program.run(image.data(), 1, logits.data());
  return std::fwrite(logits.data(), sizeof(float), logits.size(), stdout) != logits.size();
}
