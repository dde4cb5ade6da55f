// Networks in turns, in Node or in a page: one image of 224x224, one thread, after warming up. bhvit gets pixels of the size
// that it crops from, so that it need not resize them, ONNX Runtime Web what it takes as it is.

/** Milliseconds: of this process's CPU in Node, which other processes hardly change; on the clock in a page. */
function now() {
  if (typeof process === "undefined" || !process.cpuUsage) return performance.now();
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function noise(length) {
  const bytes = new Uint8Array(length);
  for (let i = 0, state = 1; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** `read(path)` gives a file's bytes; `entries` are { name, engine, file }. */
export async function measure({ Bhvit, ort, read, entries, seconds }) {
  const floats = Float32Array.from(noise(3 * 224 * 224), (byte) => (byte - 128) / 64);
  ort.env.wasm.numThreads = 1;
  const runs = [];
  for (const { name, engine, file, wasm } of entries) {
    const bytes = await read(file);
    const start = performance.now();
    let call;
    if (engine === "bhvit") {
      const model = await Bhvit.load(bytes, { worker: false, wasm });
      const { coverWidth: width, coverHeight: height } = model.info;
      const data = noise(3 * width * height);
      call = () => model.logits({ data, width, height });
    } else {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
      call = () => session.run({ [session.inputNames[0]]: new ort.Tensor("float32", floats, [1, 3, 224, 224]) });
    }
    await call();
    runs.push({ name, engine, bytes: bytes.length, first: performance.now() - start, times: [], call });
  }
  // Engines compile the busiest functions again while they run.
  for (const run of runs) for (let i = 0; i < 15; i++) await run.call();
  const end = performance.now() + 1000 * seconds * runs.length;
  while (performance.now() < end) {
    for (const run of runs) {
      const start = now();
      await run.call();
      run.times.push(now() - start);
    }
  }
  return runs.map(({ name, engine, bytes, first, times }) => {
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))];
    return { name, engine, bytes, first, p10: at(0.1), median: at(0.5), p90: at(0.9) };
  });
}
