// Builds dist/: the WebAssembly modules (with Emscripten and CMake), the scripts and their types.

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("..", import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));
const build = `${root}build/web`;
const run = (program, ...words) => execFileSync(program, words, { cwd: web, stdio: "inherit" });
const cmake = process.env.CMAKE ?? "cmake";

// i8x16.relaxed_swizzle as LLVM 14 encodes it, and as the standard does since.
const OLD_SWIZZLE = Buffer.from([0xfd, 0xa2, 0x01]);
const SWIZZLE = Buffer.from([0xfd, 0x80, 0x02]);

function count(bytes, pattern) {
  let found = 0;
  for (let at = bytes.indexOf(pattern); at >= 0; at = bytes.indexOf(pattern, at + 1)) found++;
  return found;
}

/** The module with today's encoding. Its twin without relaxed SIMD shows that no other bytes look like the old one. */
function standardised(relaxed, plain) {
  if (count(relaxed, SWIZZLE) > 0) return relaxed; // a newer LLVM
  if (count(plain, OLD_SWIZZLE) > 0) throw new Error("other instructions look like the old i8x16.relaxed_swizzle");
  const bytes = Buffer.from(relaxed);
  for (let at = bytes.indexOf(OLD_SWIZZLE); at >= 0; at = bytes.indexOf(OLD_SWIZZLE, at)) SWIZZLE.copy(bytes, at);
  return bytes;
}

run("emcmake", cmake, "-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DBHVIT_WEB=ON", "-DBHVIT_OPTIMIZE=2");
run(cmake, "--build", build, "--parallel");
rmSync(`${web}dist`, { recursive: true, force: true });
mkdirSync(`${web}dist`);
run(process.execPath, `${web}node_modules/typescript/bin/tsc`);
for (const name of ["bhvit", "bhvit.threads"]) {
  const plain = readFileSync(`${build}/${name}.wasm`);
  writeFileSync(`${web}dist/${name}.wasm`, plain);
  writeFileSync(`${web}dist/${name}.relaxed.wasm`, standardised(readFileSync(`${build}/${name}.relaxed.wasm`), plain));
}
copyFileSync(`${root}LICENSE`, `${web}LICENSE`);
