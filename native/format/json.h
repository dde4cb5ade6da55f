// A small strict JSON reader for the headers of untrusted files.
//
// Strict: RFC 8259 in UTF-8 and nothing more, no repeated keys, no halves of surrogate pairs, numbers that a double holds,
// integers of up to 18 digits kept exactly, nesting of at most kMaxJsonDepth. src/bhvit/format/strict_json.py is the same
// in Python. Its time is that of reading the text and sorting the keys; no choice of keys
// makes it longer, since nothing is hashed.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bhvit {

constexpr int kMaxJsonDepth = 32;
constexpr long kMaxJsonValues = 1 << 16;
constexpr size_t kMaxJsonNumber = 400;  // characters

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json {
  enum class Kind { null, boolean, integer, real, string, array, object };

  Kind kind = Kind::null;
  bool boolean = false;
  int64_t integer = 0;
  double real = 0;
  std::string string;
  std::vector<Json> items;                            // of an array
  std::vector<std::pair<std::string, Json>> members;  // of an object, in the order of the text

  // Declared here and defaulted where Json is complete: clang with libstdc++ instantiates the pair too early otherwise.
  Json();
  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();

  // The member of an object, or null where there is none or this is no object.
  const Json* find(std::string_view key) const;
  bool is(Kind other) const { return kind == other; }
};

// The value that `text` holds, with nothing but white space around it, of at most `max_values` values in all.
// Throws JsonError.
Json parse_json(std::string_view text, long max_values = kMaxJsonValues);

}  // namespace bhvit
