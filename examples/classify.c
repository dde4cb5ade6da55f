/* Names what is in a picture: classify MODEL.bhv PICTURE.ppm
 *
 * The picture is a binary PPM (P6) of any size, 8 bits a channel. The class is the one that `bhvit classify` names, and
 * the probability is the same when rounded as here. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bhvit.h"

static void stop(const char *name, const char *reason) {
  fprintf(stderr, "classify: %s: %s\n", name, reason);
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
  if (count != 3) stop("needs", "MODEL.bhv PICTURE.ppm");
  if (bhvit_open_file(words[1], 1, NULL, &session) != BHVIT_OK) stop(words[1], bhvit_error());
  if (strcmp(bhvit_task(session), "classify")) stop(words[1], "the model labels pixels; see segment.c");
  bhvit_get_info(session, &info);
  if (info.channels != 3) stop(words[1], "the model does not take colour pictures");

  FILE *file = fopen(words[2], "rb");
  if (!file) stop(words[2], "cannot read it");
  if (getc(file) != 'P' || getc(file) != '6') stop(words[2], "not a binary PPM (P6)");
  const size_t width = number(file), height = number(file), most = number(file);
  if (!height || !width) stop(words[2], "the header has no size");
  if (most != 255) stop(words[2], "not 8 bits a channel (a largest value of 255)");
  getc(file); /* the one white space before the pixels */
  const size_t bytes = height * width * 3;
  unsigned char *pixels = malloc(bytes);
  float *image = malloc(info.image_floats * sizeof *image), *logits = malloc(info.classes * sizeof *logits);
  if (!pixels || !image || !logits) stop(words[2], "not enough memory");
  if (fread(pixels, 1, bytes, file) != bytes) stop(words[2], "cut short");
  fclose(file);

  if (bhvit_preprocess(session, pixels, bytes, height, width, 3, image, info.image_floats) != BHVIT_OK ||
      bhvit_run(session, 1, image, info.image_floats, logits, info.classes) != BHVIT_OK ||
      bhvit_probabilities(session, 1, logits, info.classes, logits, info.classes) != BHVIT_OK) {
    stop(words[2], bhvit_error());
  }
  size_t best = 0;
  for (size_t i = 1; i < info.classes; i++)
    if (logits[i] > logits[best]) best = i;
  printf("%.1f %%  ", 100.0 * logits[best]);
  print_name(bhvit_class_name(session, best));
  free(pixels), free(image), free(logits);
  bhvit_close(session);
  return 0;
}
