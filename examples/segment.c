/* Labels each pixel of a picture: segment MODEL.bhv PICTURE.ppm LABELS.pgm
 *
 * The picture is a binary PPM (P6) of the model's own size; the result is a binary PGM (P5) whose pixels are numbers of
 * classes, the same as those of `bhvit segment`. The share of each class is printed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bhvit.h"

static void stop(const char *name, const char *reason) {
  fprintf(stderr, "segment: %s: %s\n", name, reason);
  exit(2);
}

int main(int count, char **words) {
  bhvit_session *session;
  bhvit_info info;
  unsigned width, height, most;
  if (count != 4) stop("needs", "MODEL.bhv PICTURE.ppm LABELS.pgm");
  if (bhvit_open_file(words[1], 1, NULL, &session) != BHVIT_OK) stop(words[1], bhvit_error());
  bhvit_get_info(session, &info);
  if (strcmp(bhvit_task(session), "segment")) stop(words[1], "the model classifies; see classify.c");
  if (info.channels != 3) stop(words[1], "the model does not take colour pictures");

  FILE *file = fopen(words[2], "rb");
  if (!file) stop(words[2], "cannot read it");
  if (fscanf(file, "P6 %5u %5u %3u", &width, &height, &most) != 3 || most != 255)
    stop(words[2], "not a plain 8-bit PPM");
  if (width != info.width || height != info.height) {
    fprintf(stderr, "segment: %s: resize it to %zu pixels wide and %zu high\n", words[2], info.width, info.height);
    return 2;
  }
  getc(file); /* the one white space before the pixels */
  const size_t pixels = info.width * info.height;
  unsigned char *colours = malloc(3 * pixels), *labels = malloc(pixels);
  float *image = malloc(info.image_floats * sizeof *image);
  size_t *counts = calloc(info.classes, sizeof *counts);
  if (!colours || !labels || !image || !counts) stop(words[2], "not enough memory");
  if (fread(colours, 3, pixels, file) != pixels) stop(words[2], "cut short");
  fclose(file);

  if (bhvit_normalize(session, colours, 3 * pixels, height, width, image, info.image_floats) != BHVIT_OK ||
      bhvit_segment(session, 1, image, info.image_floats, labels, pixels) != BHVIT_OK) {
    stop(words[2], bhvit_error());
  }
  file = fopen(words[3], "wb");
  if (!file || fprintf(file, "P5\n%u %u\n255\n", width, height) < 0 || fwrite(labels, 1, pixels, file) != pixels ||
      fclose(file)) {
    stop(words[3], "cannot write it");
  }
  for (size_t i = 0; i < pixels; i++) counts[labels[i]]++;
  for (size_t i = 0; i < info.classes; i++)
    if (counts[i]) printf("%5.1f %%  %s\n", 100.0 * (double)counts[i] / (double)pixels, bhvit_class_name(session, i));
  free(colours), free(labels), free(image), free(counts);
  bhvit_close(session);
  return 0;
}
