// libFuzzer's target for pictures that native code resizes: any size, part, filter and number of bytes a pixel.
//
// The input is the picture's and the result's sizes, the filter, the box as four floats of any bits, and the pixels,
// which are repeated to fill the picture. What is taken has the size asked for, and is the same when asked for again.

#include "engine/resize.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fault: %s\n", what);
  std::abort();
}

const char* const kFilters[] = {"nearest", "box", "bilinear", "bicubic", "lanczos", "other"};
constexpr int64_t kMostBytes = 1 << 18, kMostEdge = 1 << 10;

// Bytes of the input, zeros after its end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  template <class T>
  T take() {
    T value{};
    if (size_ >= sizeof value) {
      std::memcpy(&value, data_, sizeof value);
      data_ += sizeof value;
      size_ -= sizeof value;
    }
    return value;
  }
  uint8_t at(size_t index) const { return size_ ? data_[index % size_] : 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const int64_t height = bytes.take<uint16_t>() % (kMostEdge + 1), width = bytes.take<uint16_t>() % (kMostEdge + 1);
  const int64_t new_height = 1 + bytes.take<uint16_t>() % kMostEdge, new_width = 1 + bytes.take<uint16_t>() % kMostEdge;
  const int64_t channels = 1 + bytes.take<uint8_t>() % 5, stride = channels + bytes.take<uint8_t>() % 2;
  const std::string filter = kFilters[bytes.take<uint8_t>() % std::size(kFilters)];
  bhvit::Box box = {0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height)};
  if (bytes.take<uint8_t>() % 2) box = bytes.take<bhvit::Box>();
  if (height * width * stride > kMostBytes || new_height * new_width * channels > kMostBytes) return 0;
  std::vector<uint8_t> pixels(static_cast<size_t>(height * width * stride));
  for (size_t i = 0; i < pixels.size(); i++) pixels[i] = bytes.at(i);
  const bhvit::Picture picture = {pixels.data(), height, width, stride, channels};
  try {
    const std::vector<uint8_t> found = bhvit::resize(picture, new_height, new_width, filter, box);
    check(static_cast<int64_t>(found.size()) == new_height * new_width * channels, "a result of another size");
    check(found == bhvit::resize(picture, new_height, new_width, filter, box), "another result of the same picture");
  } catch (const std::invalid_argument& error) {
    check(*error.what() != 0, "a refusal without a word");
  }
  bhvit::Preprocess preprocess;
  preprocess.height = new_height;
  preprocess.width = new_width;
  preprocess.crop = 1.0 / (1 + bytes.at(0) % 16);
  preprocess.cover_height = static_cast<int64_t>(static_cast<double>(new_height) / preprocess.crop + 1e-6);
  preprocess.cover_width = static_cast<int64_t>(static_cast<double>(new_width) / preprocess.crop + 1e-6);
  preprocess.interpolation = filter;
  try {
    const std::vector<uint8_t> found = bhvit::fit(picture, preprocess);
    check(static_cast<int64_t>(found.size()) == new_height * new_width * channels, "a fitted picture of another size");
  } catch (const std::invalid_argument& error) {
    check(*error.what() != 0, "a refusal without a word");
  }
  return 0;
}
