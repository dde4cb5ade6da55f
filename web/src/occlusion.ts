/** What an answer depends on: `occlusion` of src/bhvit/runtime/saliency.py (Zeiler and Fergus, ECCV 2014). */

/** Hidden squares have an edge of 1 / PARTS of the image's shorter one, and move by half of that. */
const PARTS = 4;

/**
 * How much the log-probability of a class falls where a part of an image is hidden, for each pixel: at least 0, not scaled.
 * `chance` gives the probability of the class for normalised pixels (channels, height, width).
 */
export function occlusion(
  image: Float32Array,
  [channels, height, width]: readonly [number, number, number],
  chance: (image: Float32Array) => number,
): Float32Array {
  const edge = Math.max(1, Math.floor(Math.min(height, width) / PARTS));
  const step = Math.max(1, Math.floor(edge / 2));
  const area = height * width;
  const means = Array.from({ length: channels }, (_, c) =>
    Math.fround(image.subarray(c * area, (c + 1) * area).reduce((a, b) => a + b, 0) / area),
  );
  const whole = logarithm(chance(image));
  const total = new Float64Array(area);
  const count = new Float64Array(area);
  for (const top of starts(height, edge, step)) {
    for (const left of starts(width, edge, step)) {
      const hidden = image.slice();
      for (let c = 0; c < channels; c++) {
        for (let row = top; row < top + edge; row++) {
          const from = c * area + row * width + left;
          hidden.fill(means[c] ?? 0, from, from + edge);
        }
      }
      const fall = whole - logarithm(chance(hidden));
      for (let row = top; row < top + edge; row++) {
        for (let at = row * width + left; at < row * width + left + edge; at++) {
          total[at] = (total[at] ?? 0) + fall;
          count[at] = (count[at] ?? 0) + 1;
        }
      }
    }
  }
  return Float32Array.from(total, (sum, at) => Math.max(sum / (count[at] ?? 1), 0));
}

function logarithm(chance: number): number {
  return Math.log(Math.max(chance, 1e-30));
}

/** Where squares begin so that they cover everything and none leaves the image. */
function starts(length: number, edge: number, step: number): number[] {
  const found = [];
  for (let at = 0; at < length - edge; at += step) found.push(at);
  return [...found, length - edge];
}
