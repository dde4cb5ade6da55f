// Making mutated files whole again, so that mutations reach past the checksum.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "format/json.h"

namespace bhvit::fuzz {

// A file in parts: the header's JSON without its padding, and the tensors.
struct Parts {
  std::string header, tensors;
};
Parts split(std::string_view file);
// The file of these parts, its length, padding and checksum right.
std::string join(const Parts& parts);

// The JSON text of a string, escaped.
std::string quoted(std::string_view text);

// A whole file for the program of a file whose tensors do not fit it: their bytes come from the old ones, as sane numbers.
// Nothing where the program is not valid, or too large to be run in a fuzzer.
std::optional<std::string> rebuild(const Parts& parts);

}  // namespace bhvit::fuzz
