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

// The box of a picture, resampled to (height, width, channels): the bytes of Pillow's Image.resize(size, filter, box).
// `filter` is "nearest", "box", "bilinear", "bicubic" or "lanczos". Throws std::invalid_argument for another one, for a
// picture without pixels, and for a box that is empty or goes beyond the picture.
std::vector<uint8_t> resize(const Picture& picture, int64_t height, int64_t width, const std::string& filter,
                            const Box& box);

// The centre, (height, width, channels), of the picture resized until it just covers the size of `preprocess`: the bytes
// of `Preprocess.pixels` of src/bhvit/image.py.
std::vector<uint8_t> fit(const Picture& picture, const Preprocess& preprocess);

}  // namespace bhvit
