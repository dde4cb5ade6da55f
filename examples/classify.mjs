// Names what is in a picture: node classify.mjs MODEL.bhv PICTURE.ppm, next to bhvit.js and bhvit.wasm
//
// The C API in WebAssembly, called as classify.c calls it, which says what pictures are taken. Pointers are numbers, and
// what they point at is read through the module's views of its memory; these are fetched from the module each time,
// because they change when the memory grows.

import { readFileSync } from "node:fs";
import createBhvit from "./bhvit.js";

function stop(name, reason) {
  console.error(`classify: ${name}: ${reason}`);
  process.exit(2);
}

function read(path) {
  try {
    return readFileSync(path);
  } catch {
    return stop(path, "cannot read it");
  }
}

if (process.argv.length !== 4) stop("needs", "MODEL.bhv PICTURE.ppm");
const [modelPath, picturePath] = process.argv.slice(2);
// Given here, because older Emscriptens look for it with fetch, which in Node takes no files.
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
if (bhvit.UTF8ToString(bhvit._bhvit_task(session)) !== "classify") stop(modelPath, "the model labels pixels; see segment.mjs");
const info = allocate(48); // bhvit_info: twelve fields of 4 bytes
bhvit._bhvit_get_info(session, info);
const [channels, , , classes, imageFloats] = bhvit.HEAPU32.subarray(info / 4, info / 4 + 5);
if (channels !== 3) stop(modelPath, "the model does not take colour pictures");

const picture = read(picturePath);
if (picture.toString("latin1", 0, 2) !== "P6") stop(picturePath, "not a binary PPM (P6)");
const header = /^P6(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+(\d+)(?:\s|#.*\n)+255\s/.exec(picture.toString("latin1", 0, 1000));
if (!header) stop(picturePath, "not 8 bits a channel");
const [w, h] = header.slice(1).map(Number);
const pixels = picture.subarray(header[0].length, header[0].length + h * w * 3);
if (pixels.length !== h * w * 3) stop(picturePath, "cut short");

const bytes = copy(pixels), image = allocate(4 * imageFloats), out = allocate(4 * classes);
if (bhvit._bhvit_preprocess(session, bytes, pixels.length, h, w, 3, image, imageFloats) ||
    bhvit._bhvit_run(session, 1, image, imageFloats, out, classes) ||
    bhvit._bhvit_probabilities(session, 1, out, classes, out, classes)) {
  stop(picturePath, error());
}
const probabilities = [...bhvit.HEAPF32.subarray(out / 4, out / 4 + classes)];
const best = probabilities.indexOf(Math.max(...probabilities));
// A name comes from the model's file: control characters in it must not reach the terminal.
const name = bhvit.UTF8ToString(bhvit._bhvit_class_name(session, best)).replace(/\p{Cc}/gu, "?");
console.log(`${(100 * probabilities[best]).toFixed(1)} %  ${name}`);
bhvit._bhvit_close(session);
