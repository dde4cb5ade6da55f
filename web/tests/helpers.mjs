import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const address = new URL("../../src/bhvit/bundled/cifar10.bhv", import.meta.url);
export const file = new Uint8Array(readFileSync(fileURLToPath(address)));

/** Pixels that depend on nothing but their size. */
export function picture(width, height, channels = 4) {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0, state = 1; i < data.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    data[i] = state >>> 24;
  }
  return { data, width, height };
}
