// The page: picture in, answer out. The model runs in a worker (lib/index.js).

import { Bhvit } from "./lib/index.js";
import { colourOf, drawHeat, drawLabels, placeOf, sharesOf } from "./draw.js";

const find = (id) => document.getElementById(id);
const [status, error, classes, time, facts] = ["status", "error", "classes", "time", "facts"].map(find);
const [preview, overlay, video, camera, select, drop, files, explain] =
  ["preview", "overlay", "video", "camera", "model", "drop", "files", "explain"].map(find);

const EDGE = 1024; // longer edge of what is drawn
const WHY = "Show what the answer depends on";

const single = find("embedded"); // whether the page is a single file
const embedded = single ? JSON.parse(single.textContent) : {};

let model;
let stream;
let models = [];
let picture; // the one that was answered last: { image, width, height }

function say(text) {
  status.textContent = text;
  error.hidden = true;
}

function fail(text) {
  error.textContent = text;
  error.hidden = false;
  status.textContent = "";
}

/** Runs what a user asked for; what goes wrong is a line on the page. */
async function attempt(action) {
  try {
    await action();
  } catch (problem) {
    fail(problem instanceof Error ? problem.message : String(problem));
  }
}

function loaded() {
  if (!model) throw new Error("the model is not loaded yet");
  return model;
}

function row(name, share, colour) {
  const item = document.createElement("li");
  const number = document.createElement("span");
  const bar = document.createElement("progress");
  number.textContent = `${(100 * share).toFixed(1)} %`;
  bar.value = share;
  bar.setAttribute("aria-label", name);
  item.append(number, name, bar);
  if (colour) {
    const swatch = document.createElement("i");
    swatch.style.backgroundColor = `rgb(${colour.join(" ")})`;
    item.prepend(swatch);
  }
  return item;
}

function hideOverlay() {
  overlay.hidden = true;
  explain.setAttribute("aria-pressed", "false");
  explain.textContent = WHY;
}

/** Sets a canvas to a picture's size, at most EDGE. */
function fit(canvas, width, height) {
  const scale = Math.min(1, EDGE / Math.max(width, height));
  [canvas.width, canvas.height] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Answers for a picture and returns the name of what covers or is most likely in it. */
async function answer(image, size) {
  const run = loaded();
  const start = performance.now();
  let rows;
  if (run.info.task === "segment") {
    const found = await run.segment(image);
    const shares = sharesOf(found, run.info.classes);
    rows = shares.slice(0, 10).map(({ index, name, share }) => row(name, share, colourOf(index)));
    rows.name = shares[0].name;
    fit(overlay, found.width, found.height);
    drawLabels(overlay, found, run.info.classes.length);
    overlay.hidden = false;
  } else {
    const found = await run.classify(image, { top: 5 });
    rows = found.map(({ name, probability }) => row(name, probability));
    rows.name = found[0].name;
  }
  time.textContent = `${(performance.now() - start).toFixed(1)} ms`;
  classes.replaceChildren(...rows);
  picture = { image, ...size };
  return rows.name;
}

async function answerFile(file) {
  stopCamera();
  const called = file.name || "The picture";
  say(`Reading ${file.name || "the picture"}…`);
  classes.replaceChildren();
  time.textContent = "";
  explain.hidden = true;
  hideOverlay();
  loaded();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("the file is not a picture that this browser can decode");
  }
  const size = { width: bitmap.width, height: bitmap.height };
  fit(preview, size.width, size.height);
  preview.getContext("2d").drawImage(bitmap, 0, 0, preview.width, preview.height);
  bitmap.close();
  const name = await answer(file, size);
  preview.hidden = false;
  explain.hidden = model.info.task !== "classify";
  say(`${called}: ${name}`);
}

async function showExplanation() {
  if (!overlay.hidden) {
    hideOverlay();
    return;
  }
  const asked = picture;
  say("Hiding one part of the picture after the other…");
  explain.disabled = true;
  try {
    const found = await loaded().explain(asked.image);
    if (picture !== asked) return; // another one was chosen since
    fit(overlay, asked.width, asked.height);
    drawHeat(overlay, found, asked);
    overlay.hidden = false;
    explain.setAttribute("aria-pressed", "true");
    explain.textContent = "Hide what the answer depends on";
    const place = placeOf(found);
    say(place ? `${found.name}: the answer depends most on what is ${place}` :
      `${found.name}: no part of the picture alone changes the answer`);
  } finally {
    explain.disabled = false;
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  video.hidden = true;
  camera.textContent = "Start the camera";
  if (picture?.image === video) {
    picture = undefined;
    hideOverlay();
  }
}

async function startCamera() {
  if (!navigator.mediaDevices) throw new Error("this page may not use a camera: open it over HTTPS");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (problem) {
    throw new Error(problem.name === "NotAllowedError" ? "the camera was not allowed" : "there is no camera to use");
  }
  const mine = stream;
  video.srcObject = stream;
  video.hidden = false;
  preview.hidden = true;
  explain.hidden = true;
  hideOverlay();
  camera.textContent = "Stop the camera";
  await video.play();
  say("Camera running");
  let frames = 0;
  const begin = performance.now();
  while (stream === mine) {
    await answer(video, { width: video.videoWidth, height: video.videoHeight });
    frames += 1;
    time.textContent += `, ${(1000 * frames / (performance.now() - begin)).toFixed(1)} frames a second`;
    await new Promise(requestAnimationFrame);
  }
  hideOverlay();
}

const TASKS = { classify: "names what is in a picture", segment: "labels each pixel" };

async function load(entry) {
  say(`Loading ${entry.name}…`);
  stopCamera();
  hideOverlay();
  explain.hidden = true;
  preview.hidden = true;
  classes.replaceChildren();
  time.textContent = "";
  model?.close();
  model = undefined;
  model = single ?
    await Bhvit.load(await read(entry.file), { worker: false, wasm: URL.createObjectURL(await read("lib/bhvit.wasm")) }) :
    await Bhvit.load(entry.file);
  const { width, height } = model.info;
  const rows = { Name: entry.name, Task: TASKS[model.info.task], Architecture: entry.architecture,
    Input: `${width}×${height}`, Classes: String(model.info.classes.length), File: entry.size,
    "Names of classes": entry.classes };
  facts.replaceChildren(...Object.entries(rows).flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
  say("Ready");
}

/** Pictures that come with the site, of each class some: a button answers for one. */
function showExamples(groups) {
  find("examples").hidden = groups.length === 0;
  find("groups").replaceChildren(...groups.map(({ name, files: paths }) => {
    const group = document.createElement("div");
    const heading = document.createElement("h3");
    heading.textContent = name;
    group.append(heading, ...paths.map((path, i) => {
      const [button, image] = [document.createElement("button"), document.createElement("img")];
      button.type = "button";
      image.src = path in embedded ? `data:image/jpeg;base64,${embedded[path]}` : path;
      image.loading = "lazy";
      image.alt = `${name}, example ${i + 1}`;
      button.append(image);
      button.addEventListener("click", () => attempt(async () => {
        await answerFile(new File([await read(path)], image.alt));
      }));
      return button;
    }));
    return group;
  }));
}

/** A file of the site; of a page that is a single file, one that is embedded in it. */
async function read(path) {
  if (path in embedded) return new Blob([Uint8Array.from(atob(embedded[path]), (c) => c.charCodeAt(0))]);
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: HTTP status ${response.status}`);
  return response.blob();
}

const readList = async (path) => JSON.parse(await (await read(path)).text());

files.addEventListener("change", () => attempt(async () => {
  if (files.files[0]) await answerFile(files.files[0]);
  files.value = ""; // so that the same file can be chosen again
}));
camera.addEventListener("click", () => attempt(async () => {
  if (stream) stopCamera();
  else await startCamera();
}));
explain.addEventListener("click", () => attempt(showExplanation));
select.addEventListener("change", () => attempt(() => load(models[select.selectedIndex])));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  attempt(() => (file ? answerFile(file) : Promise.reject(new Error("that was no file"))));
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) attempt(() => answerFile(file));
});

attempt(async () => {
  models = await readList("models.json");
  select.replaceChildren(...models.map(({ name }) => new Option(name)));
  find("models").hidden = models.length < 2;
  showExamples(await readList("examples.json"));
  await load(models[0]);
  // Offline once loaded; a page that is not served securely works without.
  if (!single && "serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => undefined);
});
