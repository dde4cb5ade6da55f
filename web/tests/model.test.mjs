import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { Bhvit, BhvitError } from "../dist/index.js";
import { RELAXED_SIMD } from "../dist/module.js";
import { address, file, picture } from "./helpers.mjs";

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
  assert.ok(Math.abs(all.reduce((sum, { probability }) => sum + probability, 0) - 1) < 1e-6);
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

test("the engines with and without relaxed SIMD give the same bits", async (context) => {
  // Node 20 has relaxed SIMD behind a flag, later ones have it without.
  if (!WebAssembly.validate(RELAXED_SIMD)) setFlagsFromString("--experimental-wasm-relaxed-simd");
  if (!WebAssembly.validate(RELAXED_SIMD)) {
    context.skip("this Node has no relaxed SIMD");
    return;
  }
  const [relaxed, plain] = await Promise.all(["bhvit.relaxed.wasm", "bhvit.wasm"].map((name) =>
    Bhvit.load(file, { wasm: new URL(`../dist/${name}`, import.meta.url) })));
  assert.deepEqual(await relaxed.logits(picture(64, 48)), await plain.logits(picture(64, 48)));
  relaxed.close();
  plain.close();
});

test("several threads give the bits of one", async () => {
  const [one, three] = await Promise.all([1, 3].map((threads) => Bhvit.load(file, { threads })));
  assert.deepEqual([one.info.threads, three.info.threads], [1, 3]);
  for (const [width, height] of [[32, 32], [64, 48], [300, 20], [33, 470]]) {
    const image = picture(width, height);
    for (let i = 0; i < 20; i++) assert.deepEqual(await three.logits(image), await one.logits(image));
  }
  await assert.rejects(Bhvit.load(file.subarray(1), { threads: 2 }), { code: "format" });
  await assert.rejects(Bhvit.load(file, { threads: 0 }), { code: "argument", message: /threads must be/ });
  one.close();
  three.close();
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
  await refused(model.classify({ data: new Float32Array(64), width: 4, height: 4 }), /are bytes .*, not Float32Array/);
  await refused(model.classify({ data: new DataView(new ArrayBuffer(64)), width: 4, height: 4 }), /not DataView/);
  await refused(model.classify({ data: new Uint8Array(4), width: 10000, height: 10000 }), /no picture|larger/);
  model.close();
  model.close();
  await assert.rejects(model.classify(picture(4, 4)), { code: "closed" });
});
