// Resizes pictures without Python, for machines that are emulated: `resize CASES OUT`.
//
// CASES holds, for each picture, six 32-bit integers (height, width, channels, new height, new width, number of the
// filter), the box as four floats, and the pixels. OUT gets the resized pixels of all of them.

#include "engine/resize.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const char* const kFilters[] = {"nearest", "box", "bilinear", "bicubic", "lanczos"};

void run(const char* cases, const char* out) {
  std::ifstream file(cases, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::ofstream written(out, std::ios::binary);
  size_t at = 0;
  const auto take = [&](void* to, size_t size) {
    if (at + size > bytes.size()) throw std::runtime_error("the cases are cut short");
    std::memcpy(to, bytes.data() + at, size);
    at += size;
  };
  while (at < bytes.size()) {
    int32_t sizes[6];
    bhvit::Box box;
    take(sizes, sizeof sizes);
    take(&box, sizeof box);
    std::vector<uint8_t> pixels(static_cast<size_t>(sizes[0]) * static_cast<size_t>(sizes[1] * sizes[2]));
    take(pixels.data(), pixels.size());
    const bhvit::Picture picture = {pixels.data(), sizes[0], sizes[1], sizes[2], sizes[2]};
    const std::vector<uint8_t> found = bhvit::resize(picture, sizes[3], sizes[4], kFilters[sizes[5]], box);
    written.write(reinterpret_cast<const char*>(found.data()), static_cast<std::streamsize>(found.size()));
  }
  if (!written.flush()) throw std::runtime_error(std::string("cannot write ") + out);
}

}  // namespace

int main(int count, char** words) {
  try {
    if (count != 3) throw std::runtime_error("usage: resize CASES OUT");
    run(words[1], words[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
