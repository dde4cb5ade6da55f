/* The C API: a packed model (.bhv) opened, run and closed. C99 or newer, and C++.
 *
 *   bhvit_session *session;
 *   if (bhvit_open_file("model.bhv", 1, NULL, &session) != BHVIT_OK) { fprintf(stderr, "%s\n", bhvit_error()); exit(1); }
 *   bhvit_run(session, 1, image, image_floats, logits, logit_floats);
 *   bhvit_close(session);
 *
 * Every call checks its arguments: null pointers and wrong sizes are answered with BHVIT_ARGUMENT and a text, and
 * change nothing. No exception leaves the library. It has no state of its own but each thread's last error text.
 * Sessions are independent: any number may be used at once, from any threads. Calls on one session may come from
 * several threads as well and take turns; only bhvit_close must be the last.
 *
 * A child process may use an inherited session that no thread was running at the fork, and may always open its own. One
 * that was running is answered with BHVIT_SYSTEM.
 *
 * Answers are the same bits for every instruction set and number of threads, and those of Python's bhvit.Session. Calls
 * do not depend on the locale, nor on the caller's rounding mode, flush-to-zero and denormals-are-zero settings, which
 * they leave as they were.
 */

#ifndef BHVIT_H
#define BHVIT_H

#include <stddef.h>
#include <stdint.h>

#define BHVIT_VERSION "0.1.0"

#if defined(__GNUC__)
#define BHVIT_API __attribute__((visibility("default")))
#else
#define BHVIT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bhvit_session bhvit_session;

/* Numbers are never reused. */
typedef enum bhvit_status {
  BHVIT_OK = 0,
  BHVIT_ARGUMENT = 1, /* a null pointer, a wrong size or option, images with NaN, infinity or unnormalised pixels */
  BHVIT_FILE = 2,     /* the file cannot be read */
  BHVIT_FORMAT = 3,   /* the file is not a whole, undamaged model */
  BHVIT_MEMORY = 4,   /* not enough memory, or more than max_memory */
  BHVIT_SYSTEM = 5    /* threads that cannot be started, or a fault of the library; the text says which */
} bhvit_status;

/* BHVIT_VERSION of the library that is running, which may be newer than this header. */
BHVIT_API const char *bhvit_version(void);

/* One line on the last call of this thread that did not succeed; empty if there was none. It stays until the thread's
 * next call that fails. */
BHVIT_API const char *bhvit_error(void);

/* Opens a model and sets *session, to null on failure. `threads`, 1 to 256, work on one image together; WebAssembly
 * built without -pthread has one. `isa` is an instruction set such as "avx2" or "scalar"; null or "auto" is what the
 * environment variable BHVIT_ISA names, or else the fastest that this machine has.
 *
 * A file below 64 MB is read into memory; a larger one is mapped where the platform can. Weights that need no conversion
 * are used where they lie. A mapped file may be deleted or replaced by renaming while the session is open. Writing into
 * it changes the answers, though never what memory is touched; cutting it short ends the process (SIGBUS) when a lost
 * part is needed. Where that may happen, choose BHVIT_MAP_NEVER. Pipes and devices are refused.
 * bhvit_open_memory copies what it needs: `bytes` may go as soon as it returns. */
BHVIT_API bhvit_status bhvit_open_file(const char *path, int threads, const char *isa, bhvit_session **session);
BHVIT_API bhvit_status bhvit_open_memory(const void *bytes, size_t size, int threads, const char *isa,
                                         bhvit_session **session);

typedef enum bhvit_mapping {
  BHVIT_MAP_LARGE = 0, /* files of 64 MB or more */
  BHVIT_MAP_ALWAYS = 1,
  BHVIT_MAP_NEVER = 2
} bhvit_mapping;

/* Begin with `bhvit_options options = BHVIT_OPTIONS;` and change what is to differ. */
typedef struct bhvit_options {
  size_t size; /* of this struct */
  int threads;
  const char *isa;
  uint64_t
      max_memory; /* bytes that a session may take in addition to the file, checked before allocating; 0: 512 MiB */
  int mapping;    /* a bhvit_mapping; ignored by bhvit_open_memory_with */
} bhvit_options;
#define BHVIT_OPTIONS {sizeof(bhvit_options), 1, NULL, 0, BHVIT_MAP_LARGE}

/* The same with options; null stands for BHVIT_OPTIONS. */
BHVIT_API bhvit_status bhvit_open_file_with(const char *path, const bhvit_options *options, bhvit_session **session);
BHVIT_API bhvit_status bhvit_open_memory_with(const void *bytes, size_t size, const bhvit_options *options,
                                              bhvit_session **session);

/* Frees a session; null is allowed. */
BHVIT_API void bhvit_close(bhvit_session *session);

/* What a model takes and gives. Pointers are valid until bhvit_close. */
typedef struct bhvit_info {
  size_t channels, height, width, classes;
  size_t image_floats; /* channels * height * width */
  /* How the model was validated: a picture is resized with the filter `interpolation` ("nearest", "bilinear",
   * "bicubic", "lanczos"; Python's bhvit takes Pillow's), keeping its aspect, until it just covers cover_height and
   * cover_width, and its centre is kept. Pixels in 0..1 are normalised as (pixel - mean) / std. */
  size_t cover_height, cover_width;
  const char *interpolation;
  const double *mean, *std; /* one a channel */
  const char *isa;          /* in use */
  int threads;
} bhvit_info;
BHVIT_API bhvit_status bhvit_get_info(const bhvit_session *session, bhvit_info *info);

/* The name of a class, UTF-8 that ends with the name's first null character; null, with an error text, for a class that
 * the model does not have. Valid until bhvit_close. */
BHVIT_API const char *bhvit_class_name(const bhvit_session *session, size_t index);

/* From a picture that has been resized to what bhvit_run takes: bytes (height, width, channels), colours in the order
 * red, green, blue, at least the model's height and width -> the centre, normalised, (channels, H, W). The same bits as
 * in Python. */
BHVIT_API bhvit_status bhvit_normalize(const bhvit_session *session, const uint8_t *pixels, size_t pixel_bytes,
                                       size_t height, size_t width, float *image, size_t image_floats);

/* From a decoded picture of any size to what bhvit_run takes: bytes (height, width, channels), where `channels` are the
 * model's, or 4 for red, green, blue, alpha of a model of colours, which ignores alpha. The picture is resized and its
 * centre normalised as bhvit_info says (of a segmentation, resized whole): the same bits as in Python. */
BHVIT_API bhvit_status bhvit_preprocess(const bhvit_session *session, const uint8_t *pixels, size_t pixel_bytes,
                                        size_t height, size_t width, size_t channels, float *image,
                                        size_t image_floats);

/* What a model does: "classify", or "segment", which labels each pixel. Null, with an error text, for a null session. A
 * picture for a segmentation is resized to height x width whatever its aspect, so that no pixel is left out. */
BHVIT_API const char *bhvit_task(const bhvit_session *session);

/* Normalised images (count, channels, height, width) -> logits (count, classes), or of a segmentation (count, classes,
 * height, width). The sizes are those of the whole buffers, in floats, and must be exact. `count` may be 0. Allocates
 * nothing. */
BHVIT_API bhvit_status bhvit_run(bhvit_session *session, size_t count, const float *images, size_t image_floats,
                                 float *logits, size_t logit_floats);

/* Normalised images (count, channels, height, width) of a segmentation -> the class of each pixel, that of its largest
 * logit, (count, height, width), a byte each. `label_bytes` is the size of the whole buffer and must be exact. `count` may
 * be 0. Allocates nothing. BHVIT_ARGUMENT for a model that classifies. */
BHVIT_API bhvit_status bhvit_segment(bhvit_session *session, size_t count, const float *images, size_t image_floats,
                                     uint8_t *labels, size_t label_bytes);

/* Labels (height, width), a byte each, at another size: each pixel gets the label of the nearest one, as in
 * `bhvit segment`. The sizes in bytes are those of the whole buffers and must be exact. */
BHVIT_API bhvit_status bhvit_resize_labels(const uint8_t *labels, size_t label_bytes, size_t height, size_t width,
                                           uint8_t *resized, size_t resized_bytes, size_t resized_height,
                                           size_t resized_width);

/* Features of an image that bhvit_embed gives: 0, with an error text, for a model that labels pixels and a null session. */
BHVIT_API size_t bhvit_feature_count(const bhvit_session *session);

/* Normalised images (count, channels, height, width) -> the features that the classifier's last layer takes, (count,
 * bhvit_feature_count): images that look alike to the model have features with a large cosine. The sizes, in floats, are
 * those of the whole buffers and must be exact. `count` may be 0. Allocates nothing. BHVIT_ARGUMENT for a model that labels
 * pixels. */
BHVIT_API bhvit_status bhvit_embed(bhvit_session *session, size_t count, const float *images, size_t image_floats,
                                   float *features, size_t feature_floats);

/* Logits (count, classes), as bhvit_run gives them -> probabilities of the same shape: softmax(logits / temperature), the
 * temperature as the file was calibrated, 1 where it was not. They are Python's to about a unit in the last place.
 * `probabilities` may be `logits`. */
BHVIT_API bhvit_status bhvit_probabilities(const bhvit_session *session, size_t count, const float *logits,
                                           size_t logit_floats, float *probabilities, size_t probability_floats);

/* The same logits -> for each image 1 where it is unlike what the model knows, else 0. `miss_rate`, 0 to 1, is the
 * accepted share of known images that are reported as unknown, such as 0.05. BHVIT_ARGUMENT where the file was not
 * calibrated. */
BHVIT_API bhvit_status bhvit_unknown(const bhvit_session *session, double miss_rate, size_t count, const float *logits,
                                     size_t logit_floats, uint8_t *unknown, size_t unknown_bytes);

#ifdef __cplusplus
}
#endif

#endif
