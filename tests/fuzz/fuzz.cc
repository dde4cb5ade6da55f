// libFuzzer's target: opening and running, over files whose checksum is made right after every mutation.
//
// A file is tried as it is; if it is refused but its program is valid, it gets tensors that fit, and must then open,
// and give the same bits in plain C++ from memory, and from a mapped file or one that is read, on one of this machine's
// instruction sets with 1 to 3 threads; which, the file's bytes decide. Pictures are resized and normalised by the
// session and must run. The mutator knows the file's parts:
// it changes numbers and words of the program, whole ops, the rest of the header, or the tensors.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "api/bhvit.h"
#include "engine/dispatch.h"
#include "format/reader.h"
#include "repair.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using bhvit::fuzz::Parts;

constexpr size_t kMostFloats = 1 << 20;  // of an image that is run
constexpr size_t kImages = 3;

[[noreturn]] void fault(const char* what) {
  std::fprintf(stderr, "fault: %s: %s\n", what, bhvit_error());
  std::abort();
}

// How a file is opened.
struct Way {
  std::string isa = "scalar";
  int threads = 1;
  int mapping = -1;  // a bhvit_mapping of a file on the disk, or from memory
};

// A file on the disk that the fuzzer writes again and again.
const std::string& scratch_path() {
  static const std::string& path = *new std::string([] {
    const char* folder = std::getenv("TMPDIR");
    return std::string(folder ? folder : "/tmp") + "/bhvit-fuzz-" + std::to_string(getpid()) + ".bhv";
  }());
  return path;
}

void write_scratch(const std::string& file) {
  static const int registered = std::atexit([] { std::remove(scratch_path().c_str()); });
  std::FILE* out = std::fopen(scratch_path().c_str(), "wb");
  if (registered || !out || std::fwrite(file.data(), 1, file.size(), out) != file.size() || std::fclose(out)) {
    fault("the scratch file cannot be written");
  }
}

Way choose_way(const std::string& file) {
  static const std::vector<std::string>& isas = *new std::vector<std::string>(bhvit::available_isas());
  const uint32_t choice = bhvit::crc32(file);
  return {isas[choice % isas.size()], 1 + static_cast<int>(choice / 16 % 3), static_cast<int>(choice / 64 % 4) - 1};
}

// The session's own normalisation of a picture larger than it takes must be an image that it runs.
void normalise(const bhvit_session* session, const bhvit_info& info, std::minstd_rand& random, float* image) {
  const size_t height = info.height + random() % 4, width = info.width + random() % 4;
  std::vector<uint8_t> pixels(height * width * info.channels);
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
  if (bhvit_normalize(session, pixels.data(), pixels.size(), height, width, image, info.image_floats) != BHVIT_OK) {
    fault("no normalisation");
  }
}

// So must what the session makes of a picture of any size.
void preprocess(const bhvit_session* session, const bhvit_info& info, std::minstd_rand& random, float* image) {
  const size_t height = 1 + random() % 64, width = 1 + random() % 64;
  const size_t channels = info.channels == 3 && random() % 2 ? 4 : info.channels;
  std::vector<uint8_t> pixels(height * width * channels);
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
  if (bhvit_preprocess(session, pixels.data(), pixels.size(), height, width, channels, image, info.image_floats) !=
      BHVIT_OK) {
    fault("no preprocessing");
  }
}

// The logits of an image of numbers from -2 to 2 and of two pictures; empty if the file is refused or takes large images.
std::vector<float> open_and_run(const std::string& file, const Way& way) {
  bhvit_session* session = nullptr;
  bhvit_options options = BHVIT_OPTIONS;
  options.threads = way.threads;
  options.isa = way.isa.c_str();
  bhvit_status status;
  if (way.mapping < 0) {
    status = bhvit_open_memory_with(file.data(), file.size(), &options, &session);
  } else {
    options.mapping = way.mapping;
    write_scratch(file);
    status = bhvit_open_file_with(scratch_path().c_str(), &options, &session);
  }
  if (status != BHVIT_OK) {
    if (session || !*bhvit_error() || (status != BHVIT_FORMAT && status != BHVIT_MEMORY)) fault("a wrong refusal");
    return {};
  }
  bhvit_info info;
  if (bhvit_get_info(session, &info) != BHVIT_OK || !bhvit_class_name(session, info.classes - 1) ||
      bhvit_class_name(session, info.classes)) {
    fault("a session that knows nothing of itself");
  }
  std::vector<float> logits;
  const bool segments = std::string_view(bhvit_task(session)) == "segment";
  const size_t pixels = segments ? info.height * info.width : 1;
  if (info.image_floats <= kMostFloats && info.classes * pixels <= kMostFloats) {
    std::vector<float> images(kImages * info.image_floats);
    std::minstd_rand random(static_cast<unsigned>(file.size()));
    for (float& value : images) value = static_cast<float>(random() % 4096) / 1024.0f - 2.0f;
    normalise(session, info, random, images.data() + info.image_floats);
    preprocess(session, info, random, images.data() + 2 * info.image_floats);
    logits.resize(kImages * info.classes * pixels);
    if (bhvit_run(session, kImages, images.data(), images.size(), logits.data(), logits.size()) != BHVIT_OK)
      fault("no run");
    std::vector<uint8_t> labels(kImages * pixels);
    const bhvit_status labelled =
        bhvit_segment(session, kImages, images.data(), images.size(), labels.data(), labels.size());
    if (labelled != (segments ? BHVIT_OK : BHVIT_ARGUMENT)) fault("labels of a classifier, or none");
    for (const uint8_t label : labels) {
      if (label >= info.classes) fault("a label that is no class");
      logits.push_back(label);
    }
  }
  bhvit_close(session);
  return logits;
}

void compare(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); i++) {
    // Numbers near 2^100 overflow, and a NaN has no bits to keep.
    if (std::isfinite(a[i]) && std::memcmp(&a[i], &b[i], sizeof(float)) != 0) fault("instruction sets differ");
  }
}

size_t pick(std::minstd_rand& random, size_t count) { return count ? random() % count : 0; }

void change_number(std::string& text, std::minstd_rand& random) {
  std::vector<std::pair<size_t, size_t>> numbers;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] < '0' || text[i] > '9') continue;
    size_t end = i;
    while (end < text.size() && text[end] >= '0' && text[end] <= '9') end++;
    numbers.emplace_back(i, end - i);
    i = end;
  }
  if (numbers.empty()) return;
  const auto [at, length] = numbers[pick(random, numbers.size())];
  const std::string old = text.substr(at, length);
  // Unsigned, so that the largest numbers wrap around.
  const unsigned long value = std::strtoul(old.c_str(), nullptr, 10);
  const unsigned long choices[] = {value + 1, value - 1, value * 2, value / 2, 1, 2, 32, 64, 4096, 0, value + 32, 3};
  const std::string fresh = std::to_string(choices[pick(random, std::size(choices))]);
  if (random() % 3) {
    text.replace(at, length, fresh);
    return;
  }
  // Everywhere, as grids and channels go from op to op.
  for (size_t i = 0; (i = text.find(old, i)) != std::string::npos; i += fresh.size())
    text.replace(i, old.size(), fresh);
}

// Adds an option to an op, or takes it away, by text.
void change_option(std::string& program, std::minstd_rand& random) {
  const bhvit::OptionRule& option = bhvit::options()[pick(random, bhvit::options().size())];
  const std::string name(option.name), value(option.values[pick(random, option.values.size())]);
  const std::string text = ",\"" + name + "\":\"" + value + "\"";
  const size_t found = program.find(text, pick(random, program.size()));
  if (found != std::string::npos) {
    program.erase(found, text.size());
    return;
  }
  const size_t end = program.find('}', pick(random, program.size()));
  if (end != std::string::npos) program.insert(end, text);
}

void change_ops(std::string& program, std::minstd_rand& random) {
  std::vector<std::pair<size_t, size_t>> ops;
  for (size_t i = 0; (i = program.find('{', i)) != std::string::npos; i++) {
    const size_t end = program.find('}', i);
    if (end == std::string::npos) break;
    ops.emplace_back(i, end + 1 - i);
  }
  if (ops.size() < 2) return;
  const size_t chosen = pick(random, ops.size());
  const auto [at, length] = ops[chosen];
  std::string op = program.substr(at, length);
  if (random() % 2) {
    const size_t name = op.find("\"name\":\"");
    if (name != std::string::npos) op.insert(name + 8, std::to_string(random() % 100));
    program.insert(at, op + ",");
  } else if (chosen + 1 < ops.size()) {
    program.erase(at, ops[chosen + 1].first - at);
  }
}

void mutate_text(std::string& text, size_t room) {
  const size_t size = text.size();
  text.resize(size + std::min<size_t>(room, 64));
  text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, text.size()));
}

// Changes the program, a JSON text within the header's JSON text.
void change_program(std::string& header, std::minstd_rand& random) {
  constexpr std::string_view kKey = "\"program\":";
  const size_t begin = header.find(kKey);
  if (begin == std::string::npos) return;
  size_t end = begin + kKey.size() + 1;
  while (end < header.size() && header[end] != '"') end += header[end] == '\\' ? 2 : 1;
  if (end >= header.size()) return;
  const std::string_view escaped = std::string_view(header).substr(begin + kKey.size(), end + 1 - begin - kKey.size());
  std::string program;
  try {
    program = bhvit::parse_json(escaped).string;
  } catch (const bhvit::JsonError&) {
    return;
  }
  for (size_t rounds = 1 + pick(random, 3); rounds; rounds--) {
    switch (random() % 8) {
      case 0: mutate_text(program, 64); break;
      case 1:
      case 2: change_ops(program, random); break;
      case 3:
      case 4: change_option(program, random); break;
      default: change_number(program, random);
    }
  }
  header.replace(begin + kKey.size(), end + 1 - begin - kKey.size(), bhvit::fuzz::quoted(program));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view raw(reinterpret_cast<const char*>(data), size);
  open_and_run(std::string(raw), choose_way(std::string(raw)));  // mostly refused for its length or checksum
  const Parts parts = bhvit::fuzz::split(raw);
  const std::string file = bhvit::fuzz::join(parts);
  const std::vector<float> logits = open_and_run(file, choose_way(file));
  if (!logits.empty()) {
    compare(logits, open_and_run(file, Way()));
  } else if (const auto rebuilt = bhvit::fuzz::rebuild(parts)) {
    const std::vector<float> fresh = open_and_run(*rebuilt, choose_way(*rebuilt));
    if (fresh.empty()) fault("a rebuilt file is refused");
    compare(fresh, open_and_run(*rebuilt, Way()));
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed + 1);
  Parts parts = bhvit::fuzz::split({reinterpret_cast<const char*>(data), size});
  const unsigned choice = random() % 16;
  if (choice == 0) return LLVMFuzzerMutate(data, size, max_size);
  if (choice < 10) {
    change_program(parts.header, random);
  } else if (choice == 10) {
    change_number(parts.header, random);
  } else if (choice < 14) {
    mutate_text(parts.header, max_size);
  } else if (!parts.tensors.empty()) {
    // Within a few bytes, or rebuilding would find others everywhere.
    const size_t at = pick(random, parts.tensors.size()), length = std::min<size_t>(16, parts.tensors.size() - at);
    LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(&parts.tensors[at]), length, length);
  }
  const std::string file = bhvit::fuzz::join(parts);
  if (file.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, file.data(), file.size());
  return file.size();
}
