#include "engine/resize.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace bhvit {
namespace {

// Weights are multiples of 2^-22: of 32 bits, eight are for pixels and two for sums of weights above one.
constexpr int kPrecision = 32 - 8 - 2;

struct Filter {
  const char* name;
  double support;  // half the width
  double (*weight)(double x);
};

double box_weight(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear_weight(double x) { return std::abs(x) < 1.0 ? 1.0 - std::abs(x) : 0.0; }

double bicubic_weight(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x = x * 3.14159265358979323846;
  return std::sin(x) / x;
}

double lanczos_weight(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

constexpr Filter kFilters[] = {{"box", 0.5, box_weight},
                               {"bilinear", 1.0, bilinear_weight},
                               {"bicubic", 2.0, bicubic_weight},
                               {"lanczos", 3.0, lanczos_weight}};

// The positions of the source that each position of the result is made of, and their weights.
struct Weights {
  struct Range {
    int64_t first, count;
  };
  std::vector<Range> ranges;
  std::vector<int32_t> values;  // [position][most]
  int64_t most = 0;

  // `from` and `to` are floats, and so is their difference, as in Pillow.
  Weights(int64_t source, float from, float to, int64_t result, const Filter& filter) {
    const double scale = static_cast<double>(to - from) / static_cast<double>(result);
    const double stretch = std::max(scale, 1.0), support = filter.support * stretch, inverse = 1.0 / stretch;
    most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
    ranges.resize(static_cast<size_t>(result));
    values.assign(static_cast<size_t>(result * most), 0);
    std::vector<double> weights(static_cast<size_t>(most));
    for (int64_t i = 0; i < result; i++) {
      const double centre = static_cast<double>(from) + (static_cast<double>(i) + 0.5) * scale;
      const int64_t first = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
      const int64_t count = std::min(static_cast<int64_t>(centre + support + 0.5), source) - first;
      double sum = 0.0;
      for (int64_t k = 0; k < count; k++) {
        const double x = (static_cast<double>(k + first) - centre + 0.5) * inverse;
        sum += weights[static_cast<size_t>(k)] = filter.weight(x);
      }
      for (int64_t k = 0; k < count; k++) {
        double weight = weights[static_cast<size_t>(k)];
        if (sum != 0.0) weight /= sum;
        const double scaled = weight * (1 << kPrecision);
        values[static_cast<size_t>(i * most + k)] = static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      }
      ranges[static_cast<size_t>(i)] = {first, count};
    }
  }

  const Range& range(int64_t i) const { return ranges[static_cast<size_t>(i)]; }
  const int32_t* of(int64_t i) const { return values.data() + i * most; }
};

constexpr int32_t kHalf = 1 << (kPrecision - 1);

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

bool is_whole(float v) { return v == std::trunc(v); }

// The pixels at equally spaced positions ("nearest").
std::vector<uint8_t> pick(const Picture& p, int64_t height, int64_t width, const Box& box) {
  const auto positions = [](float from, float to, int64_t count, int64_t edge) {
    std::vector<int64_t> at(static_cast<size_t>(count));
    const double step = static_cast<double>(to - from) / static_cast<double>(count);
    double position = static_cast<double>(from) + step * 0.5;
    for (int64_t& i : at) {
      i = position < 0.0 ? -1 : static_cast<int64_t>(position);
      if (i >= edge) i = -1;
      position += step;
    }
    return at;
  };
  const std::vector<int64_t> rows = positions(box.top, box.bottom, height, p.height);
  const std::vector<int64_t> columns = positions(box.left, box.right, width, p.width);
  std::vector<uint8_t> out;
  out.reserve(static_cast<size_t>(height * width * p.channels));
  for (const int64_t row : rows) {
    for (const int64_t column : columns) {
      for (int64_t c = 0; c < p.channels; c++) {
        out.push_back(row < 0 || column < 0 ? 0 : p.pixels[(row * p.width + column) * p.stride + c]);
      }
    }
  }
  return out;
}

std::vector<uint8_t> cut(const Picture& p, int64_t top, int64_t left, int64_t height, int64_t width) {
  std::vector<uint8_t> out;
  out.reserve(static_cast<size_t>(height * width * p.channels));
  for (int64_t y = top; y < top + height; y++) {
    const uint8_t* pixel = p.pixels + (y * p.width + left) * p.stride;
    for (int64_t x = 0; x < width; x++, pixel += p.stride) out.insert(out.end(), pixel, pixel + p.channels);
  }
  return out;
}

// One direction of a picture; the result has no padding.
std::vector<uint8_t> resample_rows(const Picture& p, int64_t first, int64_t rows, const Weights& weights) {
  const int64_t width = static_cast<int64_t>(weights.ranges.size());
  std::vector<uint8_t> result(static_cast<size_t>(rows * width * p.channels));
  uint8_t* out = result.data();
  for (int64_t y = first; y < first + rows; y++) {
    const uint8_t* line = p.pixels + y * p.width * p.stride;
    for (int64_t x = 0; x < width; x++, out += p.channels) {
      const Weights::Range range = weights.range(x);
      const int32_t* weight = weights.of(x);
      const uint8_t* from = line + range.first * p.stride;
      if (p.channels == 3) {
        int32_t red = kHalf, green = kHalf, blue = kHalf;
        for (int64_t k = 0; k < range.count; k++, from += p.stride) {
          red += from[0] * weight[k];
          green += from[1] * weight[k];
          blue += from[2] * weight[k];
        }
        out[0] = rounded(red);
        out[1] = rounded(green);
        out[2] = rounded(blue);
        continue;
      }
      for (int64_t c = 0; c < p.channels; c++) {
        int32_t sum = kHalf;
        for (int64_t k = 0; k < range.count; k++) sum += from[k * p.stride + c] * weight[k];
        out[c] = rounded(sum);
      }
    }
  }
  return result;
}

// `p` has the rows of its picture from `first` on.
std::vector<uint8_t> resample_columns(const Picture& p, int64_t first, const Weights& weights) {
  const size_t line = static_cast<size_t>(p.width * p.stride);  // with padding, so that sums lie side by side
  std::vector<uint8_t> result(weights.ranges.size() * static_cast<size_t>(p.width * p.channels));
  std::vector<int32_t> sums(line);
  uint8_t* out = result.data();
  for (int64_t y = 0; y < static_cast<int64_t>(weights.ranges.size()); y++) {
    const Weights::Range range = weights.range(y);
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int64_t k = 0; k < range.count; k++) {
      const int32_t weight = weights.of(y)[k];
      const uint8_t* const from = p.pixels + (range.first - first + k) * static_cast<int64_t>(line);
      int32_t* const to = sums.data();
      for (size_t i = 0; i < line; i++) to[i] += from[i] * weight;
    }
    const int32_t* sum = sums.data();
    for (int64_t x = 0; x < p.width; x++, sum += p.stride, out += p.channels) {
      for (int64_t c = 0; c < p.channels; c++) out[c] = rounded(sum[c]);
    }
  }
  return result;
}

// Rows first, as far as columns need them; or columns first, as Pillow does from version 13 on where the height shrinks by
// more than twice as many pixels as the width. The bytes depend on the order.
std::vector<uint8_t> resample(const Picture& p, int64_t height, int64_t width, const Filter& filter, const Box& box) {
  const auto changes = [](float from, float to, int64_t edge, int64_t result) {
    return result != edge || from != 0.0f || to != static_cast<float>(result);
  };
  const bool horizontal = changes(box.left, box.right, p.width, width);
  const bool vertical = changes(box.top, box.bottom, p.height, height);
  const Weights columns(p.height, box.top, box.bottom, height, filter);
  const Weights rows(p.width, box.left, box.right, width, filter);
  if (!horizontal) return resample_columns(p, 0, columns);
  if (!vertical) return resample_rows(p, 0, p.height, rows);
  if (p.height > height && p.height - height > 2 * (p.width - width)) {
    const std::vector<uint8_t> lines = resample_columns(p, 0, columns);
    return resample_rows({lines.data(), height, p.width, p.channels, p.channels}, 0, height, rows);
  }
  const int64_t first = columns.ranges.front().first;
  const int64_t needed = columns.ranges.back().first + columns.ranges.back().count - first;
  const std::vector<uint8_t> lines = resample_rows(p, first, needed, rows);
  return resample_columns({lines.data(), needed, width, p.channels, p.channels}, first, columns);
}

}  // namespace

std::vector<uint8_t> resize(const Picture& p, int64_t height, int64_t width, const std::string& filter,
                            const Box& box) {
  if (p.height < 1 || p.width < 1 || height < 1 || width < 1) throw std::invalid_argument("a picture has no pixels");
  const bool inside = box.left >= 0 && box.top >= 0 && box.right <= static_cast<float>(p.width) &&
                      box.bottom <= static_cast<float>(p.height) && box.left < box.right && box.top < box.bottom;
  if (!inside) throw std::invalid_argument("the box is empty or goes beyond the picture");
  if (is_whole(box.left) && is_whole(box.top) && box.right - box.left == static_cast<float>(width) &&
      box.bottom - box.top == static_cast<float>(height)) {
    return cut(p, static_cast<int64_t>(box.top), static_cast<int64_t>(box.left), height, width);
  }
  if (filter == "nearest") return pick(p, height, width, box);
  for (const Filter& known : kFilters) {
    if (filter == known.name) return resample(p, height, width, known, box);
  }
  throw std::invalid_argument("unknown interpolation " + filter);
}

std::vector<uint8_t> fit(const Picture& p, const Preprocess& preprocess) {
  const int64_t height = preprocess.height, width = preprocess.width;
  const int64_t cover_height = preprocess.cover_height, cover_width = preprocess.cover_width;
  if (p.height < 1 || p.width < 1) throw std::invalid_argument("a picture has no pixels");
  int64_t full_height = cover_height, full_width = p.width * cover_height / p.height;
  if (cover_height * p.width < cover_width * p.height) {
    full_height = p.height * cover_width / p.width;
    full_width = cover_width;
  }
  const int64_t top = centre_start(full_height - height), left = centre_start(full_width - width);
  if (full_height == p.height && full_width == p.width) return cut(p, top, left, height, width);
  // Resampling the kept part alone is the same arithmetic as resampling all of it and cutting.
  const double step_x = static_cast<double>(p.width) / static_cast<double>(full_width);
  const double step_y = static_cast<double>(p.height) / static_cast<double>(full_height);
  const auto end = [](int64_t position, double step, int64_t edge) {
    return static_cast<float>(std::min(static_cast<double>(position) * step, static_cast<double>(edge)));
  };
  const Box box = {static_cast<float>(static_cast<double>(left) * step_x),
                   static_cast<float>(static_cast<double>(top) * step_y), end(left + width, step_x, p.width),
                   end(top + height, step_y, p.height)};
  return resize(p, height, width, preprocess.interpolation, box);
}

}  // namespace bhvit
