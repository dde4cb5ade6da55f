import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Bhvit, BhvitError } from "../dist/index.js";

const address = new URL("../../src/bhvit/bundled/cifar10.bhv", import.meta.url);
const file = new Uint8Array(readFileSync(fileURLToPath(address)));

/** Pixels that depend on nothing but their size. */
function picture(width, height, channels = 4) {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0, state = 1; i < data.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    data[i] = state >>> 24;
  }
  return { data, width, height };
}

function withoutAlpha({ data, width, height }) {
  return { data: data.filter((_, i) => i % 4 !== 3), width, height };
}

test("loads from an address and from bytes", async () => {
  for (const source of [address, address.href, file, file.buffer, new Blob([file])]) {
    const model = await Bhvit.load(source);
    assert.equal(model.info.classes.length, 10);
    assert.deepEqual([model.info.width, model.info.height, model.info.channels], [32, 32, 3]);
    model.close();
  }
});

test("names the likeliest classes, the likeliest first", async () => {
  const model = await Bhvit.load(file);
  const all = await model.classify(picture(50, 40), { top: 10 });
  assert.ok(Math.abs(all.reduce((sum, { probability }) => sum + probability, 0) - 1) < 1e-12);
  assert.deepEqual(all, all.toSorted((a, b) => b.probability - a.probability));
  assert.deepEqual(await model.classify(picture(50, 40), { top: 2 }), all.slice(0, 2));
  assert.equal(all[0].name, model.info.classes[all[0].index]);
  model.close();
});

test("ignores alpha, whatever the size", async () => {
  const model = await Bhvit.load(file);
  for (const [width, height] of [[32, 32], [1, 1], [300, 20], [33, 470]]) {
    const image = picture(width, height);
    assert.deepEqual(await model.logits(image), await model.logits(withoutAlpha(image)));
  }
  assert.notDeepEqual(await model.logits(picture(32, 32)), await model.logits(picture(31, 32)));
  model.close();
});

test("the engine without relaxed SIMD gives the same bits", async () => {
  const [usual, plain] = await Promise.all([
    Bhvit.load(file),
    Bhvit.load(file, { wasm: new URL("../dist/bhvit.wasm", import.meta.url) }),
  ]);
  assert.deepEqual(await usual.logits(picture(64, 48)), await plain.logits(picture(64, 48)));
});

test("damaged models are refused", async () => {
  const refused = (source, code, message) =>
    assert.rejects(Bhvit.load(source), (error) => {
      assert.ok(error instanceof BhvitError);
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  await refused(file.subarray(0, file.length - 1), "format", /cut short/);
  await refused(new Uint8Array(0), "format", /./);
  await refused(new TextEncoder().encode("<!doctype html><title>404</title>"), "format", /./);
  const changed = file.slice();
  changed[changed.length - 9] ^= 1;
  await refused(changed, "format", /./);
  await refused("file:///nowhere/model.bhv", "file", /cannot read/);
});

test("wrong pictures and options are refused", async () => {
  const model = await Bhvit.load(file);
  const refused = (call, message) => assert.rejects(call, { name: "BhvitError", code: "argument", message });
  await refused(model.classify(picture(4, 4), { top: 0 }), /top must be a whole number/);
  await refused(model.classify({ data: new Uint8Array(7), width: 2, height: 2 }), /7 bytes are no picture/);
  await refused(model.classify({ data: new Uint8Array(0), width: 0, height: 0 }), /no picture/);
  await refused(model.classify(picture(4, 4, 2)), /2 channels/);
  await refused(model.classify({ data: new Uint8Array(4), width: 10000, height: 10000 }), /no picture|larger/);
  model.close();
  model.close();
  await assert.rejects(model.classify(picture(4, 4)), { code: "closed" });
});
