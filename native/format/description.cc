#include "format/description.h"

#include <algorithm>
#include <cmath>

namespace bhvit {
namespace {

constexpr double kLargest = 0x1p100;  // as of a file's numbers; and the smallest deviation is 1 / kLargest
constexpr double kMaxDraft = 16;
constexpr double kSmallestCrop = 0.001;
constexpr const char* kInterpolations[] = {"nearest", "bilinear", "bicubic", "lanczos"};

void require_preprocess(bool condition, const std::string& what) {
  require(condition, "the preprocessing description is damaged: " + what);
}

bool is_number(const Json& value) { return value.is(Json::Kind::integer) || value.is(Json::Kind::real); }
double number(const Json& value) {
  return value.is(Json::Kind::integer) ? static_cast<double>(value.integer) : value.real;
}

bool is_integer(const Json* value, int64_t wanted) {
  return value && value->is(Json::Kind::integer) && value->integer == wanted;
}

bool is_size(const Json* value, const Op& stem) {
  return value && value->items.size() == 2 && is_integer(&value->items[0], stem["height"] * stem["patch"]) &&
         is_integer(&value->items[1], stem["width"] * stem["patch"]);
}

void require_calibration(bool condition, const std::string& what) {
  require(condition, "the calibration is damaged: " + what);
}

// The sum of e^((logit - largest) / temperature).
double odds_sum(const float* logits, size_t classes, double largest, double temperature) {
  double sum = 0;
  for (size_t i = 0; i < classes; i++) sum += std::exp((logits[i] - largest) / temperature);
  return sum;
}

// Finite numbers, one a channel.
std::vector<double> read_channels(const Json& fields, const char* key, int64_t channels) {
  const Json* list = fields.find(key);
  std::vector<double> values;
  if (list && list->is(Json::Kind::array)) {
    for (const Json& item : list->items) values.push_back(is_number(item) ? number(item) : NAN);
  }
  require_preprocess(list && static_cast<int64_t>(values.size()) == channels &&
                         std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }),
                     std::string(key) + " must be finite numbers, one a channel");
  return values;
}

}  // namespace

Json parse_part(const std::string& text, const std::string& what, long max_values) {
  try {
    return parse_json(text, max_values);
  } catch (const JsonError& error) {
    throw FormatError(what + " is damaged: " + error.what());
  }
}

void check_spec(const std::string& text, const Op& stem, const Op& head) {
  const Json spec = parse_part(text, "the model description");
  require(is_integer(spec.find("in_chans"), stem["in_chans"]) && is_size(spec.find("img_size"), stem),
          "the program takes other images than the spec says");
  // A classifier's spec may leave its task out.
  const Json* task = spec.find("task");
  const std::string wanted = head.segments() ? "segment" : "classify";
  require(task ? task->is(Json::Kind::string) && task->string == wanted : !head.segments(),
          "the program has another task than the spec says");
  require(is_integer(spec.find("num_classes"), head["classes"]), "the program has other classes than the spec says");
}

std::vector<std::string> read_class_names(const std::string& text, const Op& head) {
  const Json list = parse_part(text, "the header's class_names", std::max(kMaxJsonValues, head["classes"] + 1));
  require(list.is(Json::Kind::array), "the header's class_names is not a list");
  require(static_cast<int64_t>(list.items.size()) == head["classes"],
          "the program has " + std::to_string(head["classes"]) + " classes, but " + std::to_string(list.items.size()) +
              " names are given");
  std::vector<std::string> names;
  names.reserve(list.items.size());
  for (const Json& item : list.items) {
    require(item.is(Json::Kind::string), "the header's class_names holds something else than names");
    names.push_back(item.string);
  }
  return names;
}

Preprocess read_preprocess(const std::string& text, const Op& stem) {
  const Json fields = parse_part(text, "the preprocessing description");
  require_preprocess(fields.is(Json::Kind::object), "it is not an object");
  for (const auto& [key, value] : fields.members) {
    require_preprocess(key == "size" || key == "channels" || key == "mean" || key == "std" || key == "crop" ||
                           key == "interpolation" || key == "draft",
                       "unknown setting " + key);
  }
  // Those that may be left out have the defaults of src/bhvit/image.py.
  const Json *channels = fields.find("channels"), *crop = fields.find("crop"), *filter = fields.find("interpolation");
  require_preprocess(
      is_size(fields.find("size"), stem) && (channels ? is_integer(channels, stem["in_chans"]) : stem["in_chans"] == 3),
      "the program takes other images");
  Preprocess preprocess;
  preprocess.height = stem["height"] * stem["patch"];
  preprocess.width = stem["width"] * stem["patch"];
  preprocess.mean = read_channels(fields, "mean", stem["in_chans"]);
  preprocess.std = read_channels(fields, "std", stem["in_chans"]);
  require_preprocess(std::all_of(preprocess.std.begin(), preprocess.std.end(),
                                 [](double v) { return v >= 1 / kLargest && v <= kLargest; }),
                     "std must be positive, from 2^-100 to 2^100");
  for (size_t c = 0; c < preprocess.mean.size(); c++) {
    require_preprocess(std::abs(preprocess.mean[c]) / preprocess.std[c] <= kLargest,
                       "mean must be at most 2^100 times std");
  }
  if (crop) {
    require_preprocess(is_number(*crop) && number(*crop) >= kSmallestCrop && number(*crop) <= 1,
                       "crop must be from 0.001 to 1");
    preprocess.crop = number(*crop);
  }
  if (filter) {
    require_preprocess(
        std::any_of(std::begin(kInterpolations), std::end(kInterpolations),
                    [&](const char* known) { return filter->is(Json::Kind::string) && filter->string == known; }),
        "unknown interpolation");
    preprocess.interpolation = filter->string;
  }
  if (const Json* draft = fields.find("draft")) {  // of JPEG files, which are decoded elsewhere
    require_preprocess(
        is_number(*draft) && (number(*draft) == 0 || (number(*draft) >= 1 && number(*draft) <= kMaxDraft)),
        "draft must be 0 or from 1 to 16");
  }
  const auto cover = [&](int64_t edge) {
    return std::max(edge, static_cast<int64_t>(static_cast<double>(edge) / preprocess.crop + 1e-6));
  };
  preprocess.cover_height = cover(preprocess.height);
  preprocess.cover_width = cover(preprocess.width);
  return preprocess;
}

Calibration read_calibration(const std::string& text) {
  constexpr double kLowest = 0.01, kHighest = 100;
  constexpr size_t kQuantiles = 101;
  const Json fields = parse_part(text, "the header's calibration");
  require_calibration(fields.is(Json::Kind::object), "it is not an object");
  for (const auto& [key, value] : fields.members) {
    require_calibration(key == "temperature" || key == "score" || key == "quantiles", "unknown setting " + key);
  }
  const Json *temperature = fields.find("temperature"), *score = fields.find("score"),
             *quantiles = fields.find("quantiles");
  Calibration calibration;
  require_calibration(
      temperature && is_number(*temperature) && number(*temperature) >= kLowest && number(*temperature) <= kHighest,
      "temperature must be from 0.01 to 100");
  calibration.temperature = number(*temperature);
  require_calibration(
      score && score->is(Json::Kind::string) && (score->string == "energy" || score->string == "max_logit"),
      "score must be one of energy, max_logit");
  if (score->string == "max_logit") calibration.score = Calibration::Score::max_logit;
  const std::string rule = "quantiles must be 101 finite numbers that ascend";
  require_calibration(quantiles && quantiles->is(Json::Kind::array) && quantiles->items.size() == kQuantiles, rule);
  for (const Json& item : quantiles->items) {
    require_calibration(is_number(item) && std::abs(number(item)) < kLargest &&
                            (calibration.quantiles.empty() || calibration.quantiles.back() <= number(item)),
                        rule);
    calibration.quantiles.push_back(number(item));
  }
  return calibration;
}

void probabilities(const Calibration& calibration, const float* logits, size_t classes, float* out) {
  const double largest = *std::max_element(logits, logits + classes);
  const double sum = odds_sum(logits, classes, largest, calibration.temperature);
  for (size_t i = 0; i < classes; i++) {
    out[i] = static_cast<float>(std::exp((logits[i] - largest) / calibration.temperature) / sum);
  }
}

double score(const Calibration& calibration, const float* logits, size_t classes) {
  const double largest = *std::max_element(logits, logits + classes);
  if (calibration.score == Calibration::Score::max_logit) return largest;
  return largest + std::log(odds_sum(logits, classes, largest, 1));
}

double threshold(const Calibration& calibration, double miss_rate) {
  const size_t last = calibration.quantiles.size() - 1;
  const double position = miss_rate * static_cast<double>(last);
  const size_t lower = std::min(static_cast<size_t>(position), last - 1);
  const double low = calibration.quantiles[lower], high = calibration.quantiles[lower + 1];
  return low + (high - low) * (position - static_cast<double>(lower));
}

float largest_input(const Preprocess& p) {
  double largest = 16;
  for (size_t c = 0; c < p.mean.size(); c++) {
    largest = std::max({largest, 8 * std::abs(p.mean[c] / p.std[c]), 8 * std::abs((1 - p.mean[c]) / p.std[c])});
  }
  return static_cast<float>(largest);
}

void normalize(const Preprocess& p, const uint8_t* pixels, int64_t height, int64_t width, float* image) {
  const int64_t channels = static_cast<int64_t>(p.mean.size());
  const int64_t top = centre_start(height - p.height), left = centre_start(width - p.width);
  for (int64_t c = 0; c < channels; c++) {
    const double mean = p.mean[static_cast<size_t>(c)], deviation = p.std[static_cast<size_t>(c)];
    const float scale = static_cast<float>(1 / (255 * deviation)), offset = static_cast<float>(-mean / deviation);
    for (int64_t y = 0; y < p.height; y++) {
      const uint8_t* row = pixels + ((top + y) * width + left) * channels + c;
      for (int64_t x = 0; x < p.width; x++) *image++ = static_cast<float>(row[x * channels]) * scale + offset;
    }
  }
}

}  // namespace bhvit
