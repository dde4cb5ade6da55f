// Labels each pixel of a picture: node segment.mjs MODEL.bhv PICTURE.ppm LABELS.pgm, next to bhvit.js and bhvit.wasm
//
// The C API in WebAssembly, called as segment.c calls it, which says what pictures are taken and what is written;
// classify.mjs says how pointers are read.

import { readFileSync, writeFileSync } from "node:fs";
import createBhvit from "./bhvit.js";

function stop(name, reason) {
  console.error(`segment: ${name}: ${reason}`);
  process.exit(2);
}

function read(path) {
  try {
    return readFileSync(path);
  } catch {
    return stop(path, "cannot read it");
  }
}

if (process.argv.length !== 5) stop("needs", "MODEL.bhv PICTURE.ppm LABELS.pgm");
const [modelPath, picturePath, labelsPath] = process.argv.slice(2);
const bhvit = await createBhvit({ wasmBinary: readFileSync(new URL("bhvit.wasm", import.meta.url)) });
const error = () => bhvit.UTF8ToString(bhvit._bhvit_error());

function allocate(bytes) {
  return bhvit._malloc(bytes) || stop(picturePath, "not enough memory");
}

function copy(bytes) {
  const pointer = allocate(bytes.length);
  bhvit.HEAPU8.set(bytes, pointer);
  return pointer;
}

const model = read(modelPath), file = copy(model), opened = allocate(4);
if (bhvit._bhvit_open_memory(file, model.length, 1, 0, opened)) stop(modelPath, error());
bhvit._free(file); // the session has copied what it needs
const session = bhvit.HEAPU32[opened / 4];
if (bhvit.UTF8ToString(bhvit._bhvit_task(session)) !== "segment") stop(modelPath, "the model classifies; see classify.mjs");
const info = allocate(48); // bhvit_info: twelve fields of 4 bytes
bhvit._bhvit_get_info(session, info);
const [channels, height, width, classes, imageFloats] = bhvit.HEAPU32.subarray(info / 4, info / 4 + 5);
if (channels !== 3) stop(modelPath, "the model does not take colour pictures");

const picture = read(picturePath);
if (picture.toString("latin1", 0, 2) !== "P6") stop(picturePath, "not a binary PPM (P6)");
const header = /^P6(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+255\s/.exec(picture.toString("latin1", 0, 1000));
if (!header) stop(picturePath, "not 8 bits a channel");
const [w, h] = header.slice(1).map(Number);
const pixels = picture.subarray(header[0].length, header[0].length + h * w * 3);
if (pixels.length !== h * w * 3) stop(picturePath, "cut short");

const bytes = copy(pixels), image = allocate(4 * imageFloats), found = allocate(height * width), out = allocate(h * w);
if (bhvit._bhvit_preprocess(session, bytes, pixels.length, h, w, 3, image, imageFloats) ||
    bhvit._bhvit_segment(session, 1, image, imageFloats, found, height * width) ||
    bhvit._bhvit_resize_labels(found, height * width, height, width, out, h * w, h, w)) {
  stop(picturePath, error());
}
const labels = bhvit.HEAPU8.slice(out, out + h * w);
try {
  writeFileSync(labelsPath, Buffer.concat([Buffer.from(`P5\n${w} ${h}\n255\n`), labels]));
} catch {
  stop(labelsPath, "cannot write it");
}
const counts = new Uint32Array(classes);
for (const label of labels) counts[label]++;
counts.forEach((count, label) => {
  if (!count) return;
  // A name comes from the model's file: control characters in it must not reach the terminal.
  const name = bhvit.UTF8ToString(bhvit._bhvit_class_name(session, label)).replace(/\p{Cc}/gu, "?");
  console.log(`${((100 * count) / labels.length).toFixed(1).padStart(5)} %  ${name}`);
});
bhvit._bhvit_close(session);
