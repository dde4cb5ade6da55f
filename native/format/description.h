// A file's class names, preprocessing and calibration. The mirror of `Preprocess` in src/bhvit/image.py and of
// src/bhvit/calibration.py.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/json.h"
#include "format/schema.h"

namespace bhvit {

// How an image becomes a model's input, as src/bhvit/image.py states it. Sizes are in pixels.
struct Preprocess {
  int64_t height = 0, width = 0;              // of the result
  int64_t cover_height = 0, cover_width = 0;  // what the resized image just covers, before the centre is cut out
  std::vector<double> mean, std;              // a channel, for pixel values in 0..1
  double crop = 0.875;
  std::string interpolation = "bicubic";
};

// How logits become probabilities, and which images a model does not know, as src/bhvit/calibration.py states it.
struct Calibration {
  enum class Score { energy, max_logit };

  double temperature = 1;
  Score score = Score::energy;
  std::vector<double> quantiles;  // of the scores of validation images, ascending; empty where a file has none
};

// Each reads the JSON of one key of the metadata, checks it against the program and throws FormatError. Of the spec this
// is what decides how a model is used; the architecture that it describes too is for training, and Python checks it.
void check_spec(const std::string& text, const Op& stem, const Op& head);
std::vector<std::string> read_class_names(const std::string& text, const Op& head);
Preprocess read_preprocess(const std::string& text, const Op& stem);
Calibration read_calibration(const std::string& text);

// JSON that is a part of a header; `what` is its name in messages. Throws FormatError.
Json parse_part(const std::string& text, const std::string& what, long max_values = kMaxJsonValues);

// Logits of one image -> softmax(logits / temperature), in double, rounded at the end. `out` may be `logits`.
void probabilities(const Calibration& calibration, const float* logits, size_t classes, float* out);

// The score of an image's logits, and the score below which that share (0 to 1) of the validation images lie. The
// calibration must have quantiles.
double score(const Calibration& calibration, const float* logits, size_t classes);
double threshold(const Calibration& calibration, double miss_rate);

// The largest magnitude accepted of an input: several times that of normalised pixels, and at least 16. Pixels that were
// not normalised, from 0 to 255, are beyond it.
float largest_input(const Preprocess& preprocess);

// Where the centre begins if `spare` pixels are not part of it: half of them, rounded to even as Python does.
inline int64_t centre_start(int64_t spare) { return spare / 2 + (spare % 4 == 3); }

// Pixels (height, width, channels), not smaller than the result: their centre, normalised, (channels, H, W). The same
// bits as `Preprocess.normalize`.
void normalize(const Preprocess& preprocess, const uint8_t* pixels, int64_t height, int64_t width, float* image);

}  // namespace bhvit
