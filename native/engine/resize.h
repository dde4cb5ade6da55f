// Resizing of 8-bit pictures with Pillow's arithmetic, and the part of a picture that a model sees.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/description.h"

namespace bhvit {

// 8-bit pixels (height, width, stride): the first `channels` of each `stride` bytes count.
struct Picture {
  const uint8_t* pixels;
  int64_t height, width, stride, channels;
};

// A part of a picture, in pixels, which need not be whole.
struct Box {
  float left, top, right, bottom;
};

// The box of a picture, resampled to (height, width, channels): what Pillow's Image.resize(size, filter, box) gives, byte
// for byte. `filter` is "nearest", "box", "bilinear", "bicubic" or "lanczos". Throws std::invalid_argument for another
// one, for a picture without pixels, and for a box that is empty or goes beyond the picture.
std::vector<uint8_t> resize(const Picture& picture, int64_t height, int64_t width, const std::string& filter,
                            const Box& box);

// The picture resized until it just covers what `preprocess` says, and the centre of it, (height, width, channels): the
// same bytes as `Preprocess.pixels` of src/bhvit/image.py.
std::vector<uint8_t> fit(const Picture& picture, const Preprocess& preprocess);

}  // namespace bhvit
