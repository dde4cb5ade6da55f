// Runs an image through the C API in WebAssembly: node run.mjs MODEL IMAGE LOGITS COUNT, next to bhvit.js
//
// IMAGE and LOGITS hold float32, COUNT is the number of logits. Of a segmentation LABELS, the logits' file with ".labels",
// gets a byte a pixel. Prints, a line each, what opening says of two threads, of a damaged model, of a path
// and of an instruction set of another machine; and of the model itself, if it cannot be opened.

import { readFileSync, writeFileSync } from "node:fs";
import createBhvit from "./bhvit.js";

const bhvit = await createBhvit({ wasmBinary: readFileSync(new URL("bhvit.wasm", import.meta.url)) });
const copy = (bytes) => {
  const pointer = bhvit._malloc(bytes.length);
  bhvit.HEAPU8.set(bytes, pointer);
  return pointer;
};
const [modelPath, imagePath, logitsPath, count] = process.argv.slice(2);
const model = readFileSync(modelPath), file = copy(model), session = copy(Buffer.alloc(4));
const said = (status) => console.log(status, bhvit.UTF8ToString(bhvit._bhvit_error()));
said(bhvit._bhvit_open_memory(file, model.length, 2, 0, session));
said(bhvit._bhvit_open_memory(file, model.length - 1, 1, 0, session));
said(bhvit._bhvit_open_file(copy(Buffer.from(`${modelPath}\0`)), 1, 0, session));
said(bhvit._bhvit_open_memory(file, model.length, 1, copy(Buffer.from("avx2\0")), session));

const opened = bhvit._bhvit_open_memory(file, model.length, 1, 0, session);
if (opened) {
  said(opened);
  process.exit();
}
const image = readFileSync(imagePath), floats = image.length / 4, logits = copy(Buffer.alloc(4 * count));
if (bhvit._bhvit_run(bhvit.HEAPU32[session / 4], 1, copy(image), floats, logits, count)) {
  throw new Error(bhvit.UTF8ToString(bhvit._bhvit_error()));
}
writeFileSync(logitsPath, bhvit.HEAPU8.subarray(logits, logits + 4 * count));
if (bhvit.UTF8ToString(bhvit._bhvit_task(bhvit.HEAPU32[session / 4])) === "segment") {
  const pixels = floats / 3, labels = copy(Buffer.alloc(pixels));
  if (bhvit._bhvit_segment(bhvit.HEAPU32[session / 4], 1, copy(image), floats, labels, pixels)) {
    throw new Error(bhvit.UTF8ToString(bhvit._bhvit_error()));
  }
  writeFileSync(`${logitsPath}.labels`, bhvit.HEAPU8.subarray(labels, labels + pixels));
}
