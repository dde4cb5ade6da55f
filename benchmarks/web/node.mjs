// node node.mjs FOLDER SECONDS ORT: measures the networks of FOLDER/entries.json and prints JSON. ONNX Runtime Web is loaded
// from where npm installed it, as it needs another package there.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { measure } from "./turns.mjs";

const [folder, seconds, dist] = process.argv.slice(2);
const at = (name) => pathToFileURL(`${folder}/${name}`);
const { Bhvit } = await import(at("bhvit/index.js"));
const ort = createRequire(pathToFileURL(`${dist}/`))("./ort.node.min.js");
const entries = JSON.parse(readFileSync(at("entries.json"), "utf8"));
for (const entry of entries) if (entry.wasm) entry.wasm = at(entry.wasm).href;
const read = async (name) => new Uint8Array(readFileSync(at(name)));
console.log(JSON.stringify(await measure({ Bhvit, ort, read, entries, seconds: Number(seconds) })));
process.exit(0); // its workers would keep Node running
