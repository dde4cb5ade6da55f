// The page: picture in, answer out. The model runs in a worker (lib/index.js).

import { Bhvit } from "./lib/index.js";
import { colourOf, drawHeat, drawLabels, placeOf, sharesOf } from "./draw.js";

const find = (id) => document.getElementById(id);
const [status, error, classes, time, facts] = ["status", "error", "classes", "time", "facts"].map(find);
const [preview, overlay, video, camera, select, drop, files, explain] =
  ["preview", "overlay", "video", "camera", "model", "drop", "files", "explain"].map(find);

const EDGE = 1024; // longer edge of what is drawn

const single = find("embedded"); // whether the page is a single file
const embedded = single ? JSON.parse(single.textContent) : {};

let opening; // the model, as a promise
let stream;
let models = [];
let picture; // the one that was answered last: { image, width, height }
let turn = 0; // counts what was asked for: an answer to what is no longer asked is dropped

function say(text) {
  status.textContent = text;
  error.hidden = true;
}

function fail(text) {
  error.textContent = text;
  error.hidden = false;
  status.textContent = "";
}

/** Runs what a user asked for, until something else is asked for; what goes wrong is a line on the page. */
async function attempt(action) {
  const mine = ++turn;
  try {
    await action(() => turn === mine);
  } catch (problem) {
    if (turn !== mine) return;
    stopCamera();
    fail(problem instanceof Error ? problem.message : String(problem));
  }
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
}

/** Sets a canvas to a picture's size, at most EDGE. */
function fit(canvas, width, height) {
  const scale = Math.min(1, EDGE / Math.max(width, height));
  [canvas.width, canvas.height] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Shows the answer for a picture; returns the name of what covers or is most likely in it, or nothing if it came too late. */
async function answer(image, size, wanted) {
  const run = await opening;
  if (!run) throw new Error("the model is not loaded yet");
  const start = performance.now();
  const segments = run.info.task === "segment";
  const found = await (segments ? run.segment(image) : run.classify(image, { top: 5 }));
  if (!wanted()) return undefined;
  const shares = segments ? sharesOf(found, run.info.classes) : found;
  if (segments) {
    fit(overlay, found.width, found.height);
    drawLabels(overlay, found, run.info.classes.length);
    overlay.hidden = false;
    classes.replaceChildren(...shares.slice(0, 10).map(({ index, name, share }) => row(name, share, colourOf(index))));
  } else {
    classes.replaceChildren(...shares.map(({ name, probability }) => row(name, probability)));
  }
  time.textContent = `${(performance.now() - start).toFixed(1)} ms`;
  picture = { image, ...size };
  return shares[0].name;
}

async function answerFile(file, wanted) {
  stopCamera();
  const called = file.name || "The picture";
  say(`Reading ${file.name || "the picture"}…`);
  classes.replaceChildren();
  time.textContent = "";
  explain.hidden = true;
  preview.hidden = true;
  hideOverlay();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("the file is not a picture that this browser can decode");
  }
  const size = { width: bitmap.width, height: bitmap.height };
  if (wanted()) {
    fit(preview, size.width, size.height);
    preview.getContext("2d").drawImage(bitmap, 0, 0, preview.width, preview.height);
  }
  bitmap.close();
  const name = await answer(file, size, wanted);
  if (name === undefined) return;
  preview.hidden = false;
  explain.hidden = (await opening).info.task !== "classify";
  say(`${called}: ${name}`);
}

async function showExplanation(wanted) {
  if (!overlay.hidden) {
    hideOverlay();
    return;
  }
  const asked = picture;
  say("Hiding one part of the picture after the other…");
  explain.disabled = true;
  try {
    const found = await (await opening).explain(asked.image);
    if (!wanted()) return;
    fit(overlay, asked.width, asked.height);
    drawHeat(overlay, found, asked);
    overlay.hidden = false;
    explain.setAttribute("aria-pressed", "true");
    const place = placeOf(found);
    say(place ? `${found.name}: the answer depends most on what is ${place}` :
      `${found.name}: no part of the picture alone changes the answer`);
  } finally {
    explain.disabled = false;
  }
}

function stopCamera() {
  if (!stream) return;
  stream.getTracks().forEach((track) => track.stop());
  stream = undefined;
  video.srcObject = null;
  video.hidden = true;
  camera.textContent = "Start the camera";
  picture = undefined;
  hideOverlay();
}

async function openCamera() {
  if (!navigator.mediaDevices) throw new Error("this page may not use a camera: open it over HTTPS");
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (problem) {
    throw new Error(problem.name === "NotAllowedError" ? "the camera was not allowed" : "there is no camera to use");
  }
}

async function startCamera(wanted) {
  const opened = await openCamera();
  if (!wanted()) { // something else was asked for while the browser asked whether it may
    opened.getTracks().forEach((track) => track.stop());
    return;
  }
  stream = opened;
  video.srcObject = stream;
  video.hidden = false;
  preview.hidden = true;
  explain.hidden = true;
  hideOverlay();
  camera.textContent = "Stop the camera";
  await video.play();
  if (!wanted()) return;
  say("Camera running");
  let frames = 0;
  const begin = performance.now();
  while (wanted()) {
    if (stream.getVideoTracks().every((track) => track.readyState === "ended")) throw new Error("the camera has stopped");
    if (await answer(video, { width: video.videoWidth, height: video.videoHeight }, wanted) === undefined) return;
    frames += 1;
    time.textContent += `, ${(1000 * frames / (performance.now() - begin)).toFixed(1)} frames a second`;
    await new Promise(requestAnimationFrame);
  }
}

const TASKS = { classify: "names what is in a picture", segment: "labels each pixel" };

async function open(entry) {
  if (!single) return Bhvit.load(entry.file);
  return Bhvit.load(await read(entry.file), { worker: false, wasm: URL.createObjectURL(await read("lib/bhvit.wasm")) });
}

async function load(entry, wanted) {
  say(`Loading ${entry.name}…`);
  stopCamera();
  hideOverlay();
  explain.hidden = true;
  preview.hidden = true;
  picture = undefined;
  classes.replaceChildren();
  facts.replaceChildren();
  time.textContent = "";
  opening?.then((model) => model.close(), () => undefined);
  const mine = opening = open(entry);
  const { info } = await mine;
  if (opening !== mine) return; // another model was chosen since
  const rows = { Name: entry.name, Task: TASKS[info.task], Architecture: entry.architecture,
    Input: `${info.width}×${info.height}`, Classes: String(info.classes.length), File: entry.size,
    "Names of classes": entry.classes };
  facts.replaceChildren(...Object.entries(rows).flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
  if (wanted()) say("Ready"); // or a picture was chosen since, and waited
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
      button.addEventListener("click", () => attempt(async (wanted) => {
        await answerFile(new File([await read(path)], image.alt), wanted);
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

files.addEventListener("change", () => {
  const [file] = files.files;
  files.value = ""; // so that the same file can be chosen again
  if (file) attempt((wanted) => answerFile(file, wanted));
});
camera.addEventListener("click", () => attempt(async (wanted) => {
  if (stream) {
    stopCamera();
    say("Camera stopped");
  } else {
    await startCamera(wanted);
  }
}));
explain.addEventListener("click", () => attempt(showExplanation));
select.addEventListener("change", () => attempt((wanted) => load(models[select.selectedIndex], wanted)));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  attempt((wanted) => (file ? answerFile(file, wanted) : Promise.reject(new Error("that was no file"))));
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) attempt((wanted) => answerFile(file, wanted));
});

attempt(async (wanted) => {
  models = await readList("models.json");
  select.replaceChildren(...models.map(({ name }) => new Option(name)));
  find("models").hidden = models.length < 2;
  showExamples(await readList("examples.json"));
  await load(models[0], wanted);
  // Offline once loaded; a page that is not served securely works without.
  if (!single && "serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => undefined);
});
