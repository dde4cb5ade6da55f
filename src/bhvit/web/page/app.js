// The page: picture in, answer out. The model runs in a worker (lib/index.js).

import { Bhvit } from "./lib/index.js";

const find = (id) => document.getElementById(id);
const [status, error, classes, time, facts] = ["status", "error", "classes", "time", "facts"].map(find);
const [preview, video, camera, select, drop, files] =
  ["preview", "video", "camera", "model", "drop", "files"].map(find);

let model;
let stream;
let models = [];

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

function show(answer, milliseconds) {
  classes.replaceChildren(...answer.map(({ name, probability }) => {
    const item = document.createElement("li");
    const share = document.createElement("span");
    const bar = document.createElement("progress");
    share.textContent = `${(100 * probability).toFixed(1)} %`;
    bar.value = probability;
    bar.setAttribute("aria-label", name);
    item.append(share, name, bar);
    return item;
  }));
  time.textContent = `${milliseconds.toFixed(1)} ms`;
}

async function classify(image) {
  if (!model) throw new Error("the model is not loaded yet");
  const start = performance.now();
  const answer = await model.classify(image, { top: 5 });
  show(answer, performance.now() - start);
  return answer;
}

async function classifyFile(file) {
  stopCamera();
  say(`Reading ${file.name || "the picture"}…`);
  classes.replaceChildren();
  time.textContent = "";
  const answer = await classify(file);
  const bitmap = await createImageBitmap(file);
  preview.width = bitmap.width;
  preview.height = bitmap.height;
  preview.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  preview.hidden = false;
  say(`${file.name || "The picture"}: ${answer[0].name}`);
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  video.hidden = true;
  camera.textContent = "Start the camera";
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
  camera.textContent = "Stop the camera";
  await video.play();
  say("Camera running");
  let frames = 0;
  const begin = performance.now();
  while (stream === mine) {
    await classify(video);
    frames += 1;
    time.textContent += `, ${(1000 * frames / (performance.now() - begin)).toFixed(1)} frames a second`;
    await new Promise(requestAnimationFrame);
  }
}

async function load(entry) {
  say(`Loading ${entry.name}…`);
  model?.close();
  model = undefined;
  model = await Bhvit.load(entry.file);
  const { width, height } = model.info;
  const rows = { Name: entry.name, Architecture: entry.architecture, Input: `${width}×${height}`,
    Classes: String(model.info.classes.length), File: entry.size, "Names of classes": entry.classes };
  facts.replaceChildren(...Object.entries(rows).flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
  say("Ready");
}

files.addEventListener("change", () => attempt(async () => {
  if (files.files[0]) await classifyFile(files.files[0]);
  files.value = ""; // so that the same file can be chosen again
}));
camera.addEventListener("click", () => attempt(async () => {
  if (stream) stopCamera();
  else await startCamera();
}));
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
  attempt(() => (file ? classifyFile(file) : Promise.reject(new Error("that was no file"))));
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) attempt(() => classifyFile(file));
});

attempt(async () => {
  const response = await fetch("models.json");
  if (!response.ok) throw new Error(`models.json: HTTP status ${response.status}`);
  models = await response.json();
  select.replaceChildren(...models.map(({ name }) => new Option(name)));
  find("models").hidden = models.length < 2;
  await load(models[0]);
  // Offline once loaded; a page that is not served securely works without.
  if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => undefined);
});
