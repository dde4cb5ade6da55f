// libFuzzer's target for what a header describes: the program by the schema, and then spec, names and preprocessing.
//
// The input is a program, a zero byte, and the text of one of the others; what is taken must be within the limits.

#include "format/schema.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "format/description.h"
#include "format/json.h"

namespace {

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fault: %s\n", what);
  std::abort();
}

void check_ops(const std::vector<bhvit::Op>& ops) {
  for (const bhvit::Op& op : ops) {
    for (const int64_t size : op.output()) check(size >= 1, "an output of no size");
    for (const bhvit::TensorRule& rule : op.rule->tensors) {
      if (!op.has(rule)) continue;
      for (const int64_t size : op.shape(rule)) check(size >= 1, "a tensor of no size");
    }
  }
}

template <class Read>
void try_reading(const Read& read) {
  try {
    read();
  } catch (const bhvit::FormatError& error) {
    for (const char* c = error.what(); *c; c++) check(*c >= 0x20 && *c < 0x7f, "a refusal that is no plain line");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), text.size());
  const std::string rest = text.substr(std::min(end + 1, text.size()));
  try_reading([&] {
    const std::vector<bhvit::Op> ops = bhvit::read_program(bhvit::parse_part(text.substr(0, end), "the program"));
    check_ops(ops);
    const bhvit::Op &stem = ops.front(), &head = ops.back();
    try_reading([&] { bhvit::check_spec(rest, stem, head); });
    try_reading([&] {
      check(static_cast<long>(bhvit::read_class_names(rest, head).size()) == head["classes"], "other classes");
    });
    try_reading([&] {
      const bhvit::Preprocess found = bhvit::read_preprocess(rest, stem);
      check(std::isfinite(bhvit::largest_input(found)), "an input without limit");
      check(found.cover_height >= found.height && found.cover_width >= found.width, "a crop beyond the picture");
    });
  });
  return 0;
}
