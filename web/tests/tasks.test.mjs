// What a model is asked besides its classes. That the answers are Python's is tested in a browser (tests/web).

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bhvit } from "../dist/index.js";
import { occlusion } from "../dist/occlusion.js";
import { file, picture } from "./helpers.mjs";

test("features have the length that the model says, and depend on the picture", async () => {
  const model = await Bhvit.load(file);
  const [features, others] = await Promise.all([model.embed(picture(40, 30)), model.embed(picture(41, 30))]);
  assert.equal(features.length, model.info.features);
  assert.notDeepEqual(features, others);
  assert.deepEqual(features, await model.embed(picture(40, 30)));
  model.close();
});

test("an explanation is about the likeliest class, or the one that is asked for", async () => {
  const model = await Bhvit.load(file);
  const image = picture(80, 40);
  const [best] = await model.classify(image, { top: 1 });
  const found = await model.explain(image);
  assert.deepEqual([found.index, found.name, found.probability], [best.index, best.name, best.probability]);
  assert.equal(found.heat.length, found.width * found.height);
  assert.equal(Math.max(...found.heat), 1);
  assert.ok(Math.min(...found.heat) >= 0);
  assert.deepEqual(found.part, { x: 20, y: 0, width: 40, height: 40 });
  const other = await model.explain(image, { index: (best.index + 1) % 10 });
  assert.notDeepEqual(other.heat, found.heat);
  // What was hidden for the map is there again.
  assert.deepEqual(await model.classify(image, { top: 1 }), [best]);
  for (const index of [-1, 10, 0.5, "0"]) {
    await assert.rejects(model.explain(image, { index }), { code: "argument", message: /index must be a class, 0 to 9/ });
  }
  model.close();
});

test("occlusion finds the pixel that matters", () => {
  // 8x8 pixels, squares of 2x2 that move by one; the answer depends on row 5, column 2.
  const image = Float32Array.from({ length: 64 }, (_, i) => (i === 42 ? 1 : 0));
  const heat = occlusion(image, [1, 8, 8], (hidden) => 0.1 + 0.8 * hidden[42]);
  assert.equal(heat.indexOf(Math.max(...heat)), 42);
  assert.ok([33, 34, 35, 41, 43, 49, 50, 51].every((i) => heat[i] > 0));
  assert.equal(heat[0], 0);
});

test("a model that classifies labels no pixels", async () => {
  const model = await Bhvit.load(file);
  await assert.rejects(model.segment(picture(32, 32)), { code: "argument", message: /the model classifies images/ });
  await model.classify(picture(32, 32)); // and is as good as before
  model.close();
});

test("probabilities are softmax of the logits, divided by one temperature", async () => {
  const model = await Bhvit.load(file);
  const logits = await model.logits(picture(32, 32));
  const [best, ...others] = await model.classify(picture(32, 32), { top: 10 });
  const temperatures = others.map(({ index, probability }) =>
    (logits[best.index] - logits[index]) / Math.log(best.probability / probability));
  assert.ok(temperatures[0] > 0.1 && temperatures[0] < 10);
  for (const temperature of temperatures) assert.ok(Math.abs(temperature / temperatures[0] - 1) < 1e-3);
  model.close();
});

test("every call to a closed model is answered", async () => {
  const model = await Bhvit.load(file);
  const calls = [model.logits(picture(32, 32)), model.explain(picture(32, 32))];
  model.close();
  for (const call of calls) await assert.rejects(call, { name: "BhvitError", code: "closed" });
});
