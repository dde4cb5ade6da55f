/* Labels each pixel of a picture: segment MODEL.bhv PICTURE.ppm LABELS.pgm
 *
 * The picture is a binary PPM (P6) of any size, 8 bits a channel. The result is a binary PGM (P5) of the same size whose
 * pixels are numbers of classes, the same as those of `bhvit segment`. The share of each class is printed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bhvit.h"

static void stop(const char *name, const char *reason) {
  fprintf(stderr, "segment: %s: %s\n", name, reason);
  exit(2);
}

/* The next number of a PPM's header, after white space and comments; 0 if there is none. */
static size_t number(FILE *file) {
  unsigned value = 0;
  int c = getc(file);
  while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    c = getc(file);
  }
  ungetc(c, file);
  return fscanf(file, "%6u", &value) == 1 ? value : 0;
}

/* A name comes from the model's file: control characters in it must not reach the terminal. */
static void print_name(const char *name) {
  for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
    const int wide = c[0] == 0xc2 && c[1] < 0xa0; /* U+0080 to U+009F */
    putchar(c[0] < 0x20 || c[0] == 0x7f || wide ? '?' : c[0]);
    c += wide;
  }
  putchar('\n');
}

int main(int count, char **words) {
  bhvit_session *session;
  bhvit_info info;
  if (count != 4) stop("needs", "MODEL.bhv PICTURE.ppm LABELS.pgm");
  if (bhvit_open_file(words[1], 1, NULL, &session) != BHVIT_OK) stop(words[1], bhvit_error());
  bhvit_get_info(session, &info);
  if (strcmp(bhvit_task(session), "segment")) stop(words[1], "the model classifies; see classify.c");
  if (info.channels != 3) stop(words[1], "the model does not take colour pictures");

  FILE *file = fopen(words[2], "rb");
  if (!file) stop(words[2], "cannot read it");
  if (getc(file) != 'P' || getc(file) != '6') stop(words[2], "not a binary PPM (P6)");
  const size_t width = number(file), height = number(file), most = number(file);
  if (!height || !width) stop(words[2], "the header has no size");
  if (most != 255) stop(words[2], "not 8 bits a channel (a largest value of 255)");
  getc(file); /* the one white space before the pixels */
  const size_t pixels = height * width, own = info.height * info.width;
  unsigned char *colours = malloc(3 * pixels), *labels = malloc(pixels), *found = malloc(own);
  float *image = malloc(info.image_floats * sizeof *image);
  size_t *counts = calloc(info.classes, sizeof *counts);
  if (!colours || !labels || !found || !image || !counts) stop(words[2], "not enough memory");
  if (fread(colours, 3, pixels, file) != pixels) stop(words[2], "cut short");
  fclose(file);

  if (bhvit_preprocess(session, colours, 3 * pixels, height, width, 3, image, info.image_floats) != BHVIT_OK ||
      bhvit_segment(session, 1, image, info.image_floats, found, own) != BHVIT_OK ||
      bhvit_resize_labels(found, own, info.height, info.width, labels, pixels, height, width) != BHVIT_OK) {
    stop(words[2], bhvit_error());
  }
  file = fopen(words[3], "wb");
  if (!file || fprintf(file, "P5\n%zu %zu\n255\n", width, height) < 0 || fwrite(labels, 1, pixels, file) != pixels ||
      fclose(file)) {
    stop(words[3], "cannot write it");
  }
  for (size_t i = 0; i < pixels; i++) counts[labels[i]]++;
  for (size_t i = 0; i < info.classes; i++) {
    if (!counts[i]) continue;
    printf("%5.1f %%  ", 100.0 * (double)counts[i] / (double)pixels);
    print_name(bhvit_class_name(session, i));
  }
  free(colours), free(labels), free(found), free(image), free(counts);
  bhvit_close(session);
  return 0;
}
