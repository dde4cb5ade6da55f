// libFuzzer's target for the JSON reader alone: what it takes is within its limits, and its strings are UTF-8.

#include "format/json.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "repair.h"

namespace {

constexpr long kMostValues = 1000;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fault: %s\n", what);
  std::abort();
}

long count(const bhvit::Json& value, int depth) {
  using Kind = bhvit::Json::Kind;
  check(depth <= bhvit::kMaxJsonDepth, "too deep");
  check(value.is(Kind::array) || value.items.empty(), "items of what is no array");
  check(value.is(Kind::object) || value.members.empty(), "members of what is no object");
  check(!value.is(Kind::real) || std::isfinite(value.real), "a number that is not finite");
  long values = 1;
  for (const bhvit::Json& item : value.items) values += count(item, depth + 1);
  for (const auto& [key, member] : value.members) {
    check(value.find(key) == &member, "a repeated key");
    // Quoted again and read again, a text is the same: it was UTF-8.
    check(bhvit::parse_json(bhvit::fuzz::quoted(key)).string == key, "a key that is no text");
    values += count(member, depth + 1);
  }
  if (value.is(Kind::string)) {
    check(bhvit::parse_json(bhvit::fuzz::quoted(value.string)).string == value.string, "a string that is no text");
  }
  return values;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const bhvit::Json value = bhvit::parse_json({reinterpret_cast<const char*>(data), size}, kMostValues);
    check(count(value, 0) <= kMostValues, "too many values");
  } catch (const bhvit::JsonError& error) {
    check(*error.what() != 0, "a refusal without a word");
  }
  return 0;
}
