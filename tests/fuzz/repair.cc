#include "repair.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "format/reader.h"
#include "format/schema.h"

namespace bhvit::fuzz {
namespace {

constexpr std::string_view kChecksum = "\"checksum\":\"";

// Work of an op that a fuzzer runs in a moment, and what all of them may take; many ops if each is quick.
constexpr int64_t kMostValues = 1 << 16, kMostWork = int64_t{1} << 24;
constexpr size_t kMostOps = 128;

bool small(const std::vector<Op>& ops) {
  int64_t tensors = 0;
  if (ops.size() > kMostOps) return false;
  for (const Op& op : ops) {
    const std::vector<int64_t> out = op.output();
    const auto get = [&](const char* key) { return op.attributes.count(key) ? op[key] : int64_t{1}; };
    const int64_t tokens = get("height") * get("width");
    if (out[0] * out[1] * out[2] > kMostValues || tokens * get("channels") > kMostValues) return false;
    if (get("in_chans") * get("kernel") * get("kernel") * tokens > kMostValues) return false;
    int64_t weights = 0;
    for (const TensorRule& rule : op.rule->tensors) {
      if (!op.has(rule)) continue;
      int64_t values = op.bits(rule) ? 32 : 1;
      for (const int64_t dim : op.shape(rule)) values *= dim;
      weights += values;
      tensors += values;
    }
    if (op.rule->kind == "attention") {
      const int64_t windows = tokens / (op["window_h"] * op["window_w"]);
      const int64_t keys = op["window_h"] * op["window_w"] + windows;
      if (windows * keys * keys * op["channels"] > kMostWork) return false;
    }
    if (op.segments() && tokens * op["scale"] * op["scale"] * op["classes"] > kMostValues) return false;
    if (tokens * weights > 4 * kMostWork || tensors > kMostWork) return false;
  }
  return true;
}

std::string text_of(const Json& json, const char* key) {
  const Json* value = json.find(key);
  return value ? value->string : std::string();
}

std::string list(const std::vector<int64_t>& values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? "" : ",") + std::to_string(value);
  return "[" + text + "]";
}

}  // namespace

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

Parts split(std::string_view file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), std::min<size_t>(file.size(), 8));
  file.remove_prefix(std::min<size_t>(file.size(), 8));
  length = std::min<uint64_t>(length, file.size());
  Parts parts{std::string(file.substr(0, length)), std::string(file.substr(length))};
  while (!parts.header.empty() && parts.header.back() == ' ') parts.header.pop_back();
  return parts;
}

std::string join(const Parts& parts) {
  std::string header = parts.header;
  const size_t at = header.find(kChecksum);
  if (at != std::string::npos && at + kChecksum.size() + 8 < header.size()) {
    header.replace(at + kChecksum.size(), 8, "00000000");
  }
  header.append((64 - (header.size() + 8) % 64) % 64, ' ');
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  file += header + parts.tensors;
  if (at != std::string::npos && at + kChecksum.size() + 8 < header.size()) {
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", static_cast<unsigned>(crc32(file)));
    std::memcpy(&file[8 + at + kChecksum.size()], digits, 8);
  }
  return file;
}

std::optional<std::string> rebuild(const Parts& parts) try {
  const Json header = parse_json(parts.header);
  const Json* metadata = header.find("__metadata__");
  if (!metadata) return std::nullopt;
  const std::string program = text_of(*metadata, "program");
  const std::vector<Op> ops = read_program(parse_json(program));
  if (!small(ops)) return std::nullopt;
  const Op &stem = ops.front(), &head = ops.back();
  const std::vector<int64_t> size = {stem["height"] * stem["patch"], stem["width"] * stem["patch"]};
  const std::vector<int64_t> ones(static_cast<size_t>(stem["in_chans"]), 1);
  std::string names;
  for (int64_t i = 0; i < head["classes"]; i++) names += (i ? ",\"" : "\"") + std::to_string(i) + "\"";
  Parts whole;
  whole.header = "{\"__metadata__\":{\"format\":\"bhvit\",\"version\":\"1\",\"checksum\":\"00000000\",\"program\":" +
                 quoted(program) + ",\"class_names\":" + quoted("[" + names + "]") + ",\"spec\":" +
                 quoted("{\"img_size\":" + list(size) + ",\"in_chans\":" + std::to_string(stem["in_chans"]) +
                        ",\"num_classes\":" + std::to_string(head["classes"]) +
                        (head.segments() ? ",\"task\":\"segment\"}" : "}")) +
                 ",\"preprocess\":" +
                 quoted("{\"size\":" + list(size) + ",\"channels\":" + std::to_string(stem["in_chans"]) +
                        ",\"mean\":" + list(ones) + ",\"std\":" + list(ones) + "}") +
                 "}";
  size_t next = 0;
  const auto byte = [&] {
    const size_t at = next++;
    const uint8_t old = parts.tensors.empty() ? 0 : static_cast<uint8_t>(parts.tensors[at % parts.tensors.size()]);
    return static_cast<uint8_t>(old ^ (at * 0x9e3779b97f4a7c15u >> 56));
  };
  for (const Op& op : ops) {
    for (const TensorRule& rule : op.rule->tensors) {
      if (!op.has(rule)) continue;
      const std::vector<int64_t> shape = op.shape(rule);
      int64_t values = 1;
      for (const int64_t dim : shape) values *= dim;
      const size_t begin = whole.tensors.size();
      for (int64_t i = 0; i < values; i++) {
        char value[4];
        if (op.bits(rule)) {
          for (char& b : value) b = static_cast<char>(byte());
        } else {
          const float number = rule.name == std::string_view("exp_table") ? 1.0f / static_cast<float>(i + 1)
                                                                          : static_cast<float>(byte()) / 128.0f - 0.99f;
          std::memcpy(value, &number, 4);
        }
        whole.tensors.append(value, 4);
      }
      whole.header += "," + quoted(op.name + "." + rule.name) + ":{\"dtype\":\"" + (op.bits(rule) ? "U32" : "F32") +
                      "\",\"shape\":" + list(shape) + ",\"data_offsets\":[" + std::to_string(begin) + "," +
                      std::to_string(whole.tensors.size()) + "]}";
    }
  }
  whole.header += "}";
  return join(whole);
} catch (const std::runtime_error&) {  // FormatError, JsonError
  return std::nullopt;
}

}  // namespace bhvit::fuzz
