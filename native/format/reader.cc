#include "format/reader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>

#include "format/memory.h"

namespace bhvit {
namespace {

static_assert(std::endian::native == std::endian::little, "files and bit planes are little-endian");

constexpr uint64_t kMaxHeader = uint64_t{1} << 24;
constexpr size_t kMaxDims = 8;
constexpr long kMaxHeaderValues = 1 << 19;  // a thousand ops, each with fifty tensors of ten values
constexpr std::string_view kVersion = "1";
constexpr std::string_view kNoChecksum = "00000000";

constexpr size_t kCrcBytes = 16;  // that take one step: most of opening is this sum
using CrcTables = std::array<std::array<uint32_t, 256>, kCrcBytes>;

// tables[k][b] is the CRC of byte b followed by k zero bytes, so that the bytes of a step add up.
CrcTables make_crc_tables() {
  CrcTables tables{};
  for (uint32_t b = 0; b < 256; b++) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < kCrcBytes; k++) {
    for (size_t b = 0; b < 256; b++) tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 255];
  }
  return tables;
}

// Made when first needed: as constants they would be a tenth of what a page loads.
const CrcTables& crc_tables() {
  static const CrcTables tables = make_crc_tables();
  return tables;
}

const std::string& text_of(const Json& metadata, const char* key) {
  const Json* value = metadata.find(key);
  require(value && value->is(Json::Kind::string), std::string("the header lacks ") + key);
  return value->string;
}

void check_checksum(std::string_view file, const std::string& stored) {
  const bool well_formed = stored.size() == kNoChecksum.size() && std::all_of(stored.begin(), stored.end(), [](char c) {
                             return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                           });
  uint32_t crc = 0;
  if (well_formed) {
    const std::string_view prefix = "\"checksum\":\"";
    const size_t at = file.find(std::string(prefix) + stored + "\"");
    if (at == std::string_view::npos) {
      crc = crc32(file);
    } else {
      const size_t digits = at + prefix.size();
      crc = crc32(file.substr(0, digits));
      crc = crc32(kNoChecksum, crc);
      crc = crc32(file.substr(digits + kNoChecksum.size()), crc);
    }
  }
  std::string computed;
  for (int shift = 28; shift >= 0; shift -= 4) computed += "0123456789abcdef"[crc >> shift & 15];
  require(well_formed && stored == computed, "damaged: its checksum does not match; copy or pack it again");
}

[[noreturn]] void fail_cut_short(std::string_view file, const char* claim, uint64_t needed) {
  throw FormatError("cut short: it has " + std::to_string(file.size()) + " bytes, its header " + claim + " " +
                    std::to_string(needed) + "; copy or download it again");
}

// Throws if tensors lie beyond the end of the file; other damage of the header, not yet checked, is passed over.
void check_length(std::string_view file, uint64_t start, const Json& header) {
  uint64_t needed = start;
  for (const auto& member : header.members) {
    const Json* offsets = member.second.find("data_offsets");
    if (!offsets || offsets->items.size() != 2) continue;
    const Json& end = offsets->items[1];
    if (!end.is(Json::Kind::integer) || end.integer < 0) continue;
    needed = std::max(needed, start + static_cast<uint64_t>(end.integer));
  }
  if (file.size() < needed && needed <= kMaxBytes) fail_cut_short(file, "says it needs", needed);
}

constexpr size_t bytes_each(Tensor::Type type) {
  return type == Tensor::Type::i8 ? 1 : type == Tensor::Type::f16 ? 2 : 4;
}

// One entry of the header; its offsets are checked against `data` and must start where the last one ended.
Tensor read_tensor(const std::string& name, const Json& entry, std::string_view data) {
  const std::string where = "tensor " + name + ": ";
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
  require(entry.is(Json::Kind::object) && entry.members.size() == 3 && dtype && shape && offsets &&
              dtype->is(Json::Kind::string) && shape->is(Json::Kind::array) && offsets->is(Json::Kind::array),
          where + "its entry in the header is damaged");
  Tensor tensor;
  if (dtype->string == "U32") {
    tensor.type = Tensor::Type::u32;
  } else if (dtype->string == "F32") {
    tensor.type = Tensor::Type::f32;
  } else if (dtype->string == "F16") {
    tensor.type = Tensor::Type::f16;
  } else if (dtype->string == "I8") {
    tensor.type = Tensor::Type::i8;
  } else {
    throw FormatError(where + "type " + dtype->string + "; a model has U32, F32, F16 and I8");
  }
  require(shape->items.size() <= kMaxDims, where + "too many dimensions");
  uint64_t bytes = bytes_each(tensor.type);
  for (const Json& dim : shape->items) {
    require(dim.is(Json::Kind::integer) && dim.integer >= 1 && static_cast<uint64_t>(dim.integer) <= kMaxBytes,
            where + "its shape is damaged");
    bytes *= static_cast<uint64_t>(dim.integer);  // below 2^62: both factors are at most 2^31
    require(bytes <= kMaxBytes, where + "its shape is over the limit");
    tensor.shape.push_back(dim.integer);
  }
  require(offsets->items.size() == 2 && offsets->items[0].is(Json::Kind::integer) &&
              offsets->items[1].is(Json::Kind::integer),
          where + "its offsets are damaged");
  const int64_t begin = offsets->items[0].integer, end = offsets->items[1].integer;
  require(0 <= begin && begin <= end && static_cast<uint64_t>(end) <= data.size(),
          where + "its offsets are outside the file");
  require(static_cast<uint64_t>(end - begin) == bytes, where + "its shape does not fit its offsets");
  tensor.bytes = data.substr(static_cast<size_t>(begin), bytes);
  return tensor;
}

// Finite and below 2^100 in magnitude: the engine folds small factors into them and must not overflow. Of whole
// numbers the scales see to that.
bool in_range(const Tensor& tensor) {
  constexpr uint32_t kExponent = 0x7f800000, kLimit = (127u + 100u) << 23;
  if (tensor.type == Tensor::Type::i8) return true;
  if (tensor.type == Tensor::Type::f16) {
    for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
      uint16_t v;
      std::memcpy(&v, tensor.bytes.data() + i, 2);
      if ((v & 0x7c00) == 0x7c00) return false;
    }
  } else {
    for (size_t i = 0; i < tensor.bytes.size(); i += 4) {
      uint32_t v;
      std::memcpy(&v, tensor.bytes.data() + i, 4);
      if ((v & kExponent) >= kLimit) return false;
    }
  }
  return true;
}

// The softmax of the engine divides by a sum of these that always has the first in it.
bool positive_weights(const Tensor& tensor) {
  const bool half = tensor.type == Tensor::Type::f16;
  const size_t step = half ? 2 : 4;
  for (size_t i = 0; i < tensor.bytes.size(); i += step) {
    uint32_t v = 0;  // little-endian: a float16 fills the low half
    std::memcpy(&v, tensor.bytes.data() + i, step);
    const uint32_t sign = half ? 0x8000 : 0x80000000;
    if (v > sign || (i == 0 && (v & ~sign) == 0)) return false;
  }
  return true;
}

std::string text_of_shape(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t dim : shape) text += (text.empty() ? "" : ", ") + std::to_string(dim);
  return "[" + text + "]";
}

constexpr const char* kScale = ".scale";

// The bytes of the scales that belong to `tensor`, of 8-bit whole numbers. Throws FormatError.
std::string_view find_scale(const Model& model, const std::string& name, const Tensor& tensor) {
  require(tensor.shape.size() >= 2, "tensor " + name + " has type int8, which needs two dimensions or more");
  const auto found = model.tensors.find(name + kScale);
  require(found != model.tensors.end(), "tensor " + name + kScale + " is missing");
  const Tensor& scale = found->second;
  std::vector<int64_t> shape = tensor.shape;
  shape[shape.size() - 2] = 1;
  require(scale.type == Tensor::Type::f32 && scale.shape == shape,
          "tensor " + name + kScale + " must be float32 of shape " + text_of_shape(shape));
  for (size_t i = 0; i < scale.bytes.size(); i += 4) {
    constexpr uint32_t kLimit = (127u + 93u) << 23;  // 2^93: times 128 it is 2^100
    uint32_t v;
    std::memcpy(&v, scale.bytes.data() + i, 4);
    require(v != 0 && v < kLimit, "tensor " + name + kScale + " holds numbers that are not positive or not below 2^93");
  }
  return scale.bytes;
}

// Names the tensor that no op has.
[[noreturn]] void fail_unknown_tensor(const Model& model) {
  std::set<std::string> known;
  for (const Op& op : model.ops) {
    for (const TensorRule& rule : op.rule->tensors) {
      if (!op.has(rule)) continue;
      const std::string name = op.name + "." + rule.name;
      known.insert(name);
      if (model.tensors.at(name).type == Tensor::Type::i8) known.insert(name + kScale);
    }
  }
  for (const auto& entry : model.tensors)
    require(known.count(entry.first), "tensor " + entry.first + " belongs to no op");
  throw FormatError("two ops name the same tensor");
}

void check_tensors(Model& model) {
  size_t expected = 0;
  for (const Op& op : model.ops) {
    for (const TensorRule& rule : op.rule->tensors) {
      if (!op.has(rule)) continue;
      const std::string name = op.name + "." + rule.name;
      const auto found = model.tensors.find(name);
      require(found != model.tensors.end(), "tensor " + name + " is missing");
      Tensor& tensor = found->second;
      const std::vector<int64_t> shape = op.shape(rule);
      require(tensor.shape == shape, "tensor " + name + " has shape " + text_of_shape(tensor.shape) +
                                         ", its op needs " + text_of_shape(shape));
      require((tensor.type == Tensor::Type::u32) == op.bits(rule), "tensor " + name + " has the wrong type");
      if (tensor.type == Tensor::Type::i8) {
        tensor.scale = find_scale(model, name, tensor);
        expected++;
      }
      require(op.bits(rule) || in_range(tensor),
              "tensor " + name + " holds numbers that are not finite, or of 2^100 or more");
      if (rule.name == std::string_view("exp_table"))
        require(positive_weights(tensor), "tensor " + name + " is no table of weights: the first must be positive");
      expected++;
    }
  }
  if (expected != model.tensors.size()) fail_unknown_tensor(model);
}

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude < 0x0400) {  // subnormal: magnitude * 2^-24, exactly
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t bits = sign | ((magnitude << 13) + ((127u - 15u) << 23));
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace

uint32_t crc32(std::string_view bytes, uint32_t crc) {
  const CrcTables& all = crc_tables();
  crc = ~crc;
  size_t i = 0;
  for (; i + kCrcBytes <= bytes.size(); i += kCrcBytes) {
    uint32_t words[kCrcBytes / 4];
    std::memcpy(words, bytes.data() + i, kCrcBytes);
    words[0] ^= crc;
    crc = 0;
    for (size_t w = 0; w < kCrcBytes / 4; w++) {
      const auto* tables = &all[kCrcBytes - 4 * (w + 1)];
      crc ^= tables[3][words[w] & 255] ^ tables[2][words[w] >> 8 & 255] ^ tables[1][words[w] >> 16 & 255] ^
             tables[0][words[w] >> 24];
    }
  }
  for (; i < bytes.size(); i++) crc = crc >> 8 ^ all[0][(crc ^ static_cast<unsigned char>(bytes[i])) & 255];
  return ~crc;
}

int64_t Tensor::size() const { return static_cast<int64_t>(bytes.size() / bytes_each(type)); }

bool Tensor::usable() const {
  return bytes.size() % kAlignment == 0 && reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment == 0;
}

void Tensor::copy_floats(float* values) const {
  if (type == Type::f32) {
    std::memcpy(values, bytes.data(), bytes.size());
    return;
  }
  if (type == Type::i8) {
    const auto* whole = reinterpret_cast<const int8_t*>(bytes.data());
    const size_t columns = static_cast<size_t>(shape.back()), rows = static_cast<size_t>(shape[shape.size() - 2]);
    std::vector<float> factors(columns);
    for (size_t at = 0; at < bytes.size(); at += rows * columns) {
      std::memcpy(factors.data(), scale.data() + 4 * (at / rows), 4 * columns);
      for (size_t row = at; row < at + rows * columns; row += columns) {
        for (size_t c = 0; c < columns; c++) values[row + c] = static_cast<float>(whole[row + c]) * factors[c];
      }
    }
    return;
  }
  for (size_t i = 0; i < bytes.size() / 2; i++) {
    uint16_t half;
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    values[i] = half_to_float(half);
  }
}

Model read_model(std::string_view file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), std::min<size_t>(file.size(), 8));
  require(file.size() >= 8,
          "not a .bhv file: " + std::to_string(file.size()) + " bytes hold no header; copy or download it again");
  require(file.size() <= kMaxBytes && length >= 2 && length <= kMaxHeader && (file.size() == 8 || file[8] == '{'),
          "not a .bhv file: it does not begin as one, or is too large; `bhvit pack` makes one");
  if (file.size() < 8 + length) fail_cut_short(file, "alone needs", 8 + length);
  Json header;
  try {
    header = parse_json(file.substr(8, length), kMaxHeaderValues);
  } catch (const JsonError& error) {
    throw FormatError(std::string("not a .bhv file: its header is damaged: ") + error.what());
  }
  const Json* found = header.find("__metadata__");
  require(found, "not a .bhv file: it has no bhvit header; `bhvit pack` makes one from a checkpoint");
  const Json& metadata = *found;
  const Json* format = metadata.find("format");
  require(format && format->is(Json::Kind::string) && format->string == "bhvit",
          "not a .bhv file: it has no bhvit header; `bhvit pack` makes one from a checkpoint");
  const Json* version = metadata.find("version");
  require(version && version->is(Json::Kind::string) && version->string == kVersion,
          "another version; this bhvit reads version '1': pack it again");
  check_length(file, 8 + length, header);  // first: a file that is cut short has another checksum, too
  check_checksum(file, text_of(metadata, "checksum"));

  Model model;
  model.ops = read_program(parse_part(text_of(metadata, "program"), "the header's program"));
  const std::string_view data = file.substr(8 + length);
  std::vector<std::pair<const char*, const char*>> parts;
  for (const auto& [name, entry] : header.members) {
    if (name == "__metadata__") continue;
    const Tensor tensor = read_tensor(name, entry, data);
    parts.emplace_back(tensor.bytes.data(), tensor.bytes.data() + tensor.bytes.size());
    model.tensors.emplace(name, tensor);
  }
  std::sort(parts.begin(), parts.end());
  const char* end = data.data();
  for (const auto& part : parts) {
    require(part.first == end, "the tensors overlap or leave gaps");
    end = part.second;
  }
  require(end == data.data() + data.size(), "bytes after the last tensor");
  check_tensors(model);

  const Op &stem = model.ops.front(), &head = model.ops.back();
  check_spec(text_of(metadata, "spec"), stem, head);
  model.class_names = read_class_names(text_of(metadata, "class_names"), head);
  model.preprocess = read_preprocess(text_of(metadata, "preprocess"), stem);
  if (metadata.find("calibration")) model.calibration = read_calibration(text_of(metadata, "calibration"));
  for (const auto& [key, value] : metadata.members) {
    require(value.is(Json::Kind::string), "the header's " + key + " is not text");
  }
  model.header = file.substr(0, 8 + length);
  return model;
}

}  // namespace bhvit
