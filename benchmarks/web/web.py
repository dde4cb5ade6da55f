"""Time bhvit and ONNX Runtime Web in Node and in headless Chromium.

One thread, 224x224, in turns.

    python -m benchmarks.web.web --ort NODE_MODULES/onnxruntime-web/dist

Random weights. ONNX files and int8 quantisation are those of `benchmarks.latency.peers`. Needs the built npm package
(`make web`), Node, Chromium, Playwright, and onnx, onnxscript and onnxruntime. `--networks FOLDER` keeps the networks
for the next run. Writes `results.md`.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import add_page, markdown, write_results
from benchmarks.latency import peers

import bhvit
from bhvit.models import create_model
from bhvit.web.site import find_library
from helpers.randomise import randomise

HERE = Path(__file__).parent
NETWORKS = {
    "resnet18": ("int8", "float32"),
    "mobilenetv3_large_100": ("float32",),
    "mobilenetv3_small_100": ("float32",),
    "deit_tiny_patch16_224": ("int8",),
}
"""Networks and the precisions in which ONNX Runtime Web runs them."""
_ORT_FILES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs", "ort.wasm.min.mjs")
"""What a page loads of ONNX Runtime Web for the CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ort", type=Path, required=True, help="folder dist/ of the npm package onnxruntime-web")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each network (default 3)")
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="keep the networks here, and take those there")
    add_page(parser, HERE / "results.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.ort, args.networks)
        # Node 20 has relaxed SIMD behind a flag. On a busy machine its better compiler would come too late for some.
        flags = ["--experimental-wasm-relaxed-simd", "--no-liftoff", "--no-wasm-tier-up"]
        command = ["node", *flags, str(HERE / "node.mjs"), str(folder), str(args.seconds), str(args.ort.resolve())]
        node = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        chromium, version = in_chromium(folder, args.seconds)
        sizes = load_sizes(folder)
    tables = [
        _table("Node, ms of CPU", node),
        _table("Chromium, ms on the clock", chromium),
    ]
    node_version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    ort_version = json.loads((args.ort.parent / "package.json").read_text())["version"]
    load = os.getloadavg()[1]
    text = f"""Node {node_version} with `{" ".join(flags)}`, Chromium {version},
onnxruntime-web {ort_version}. One thread, networks in turns, 15 calls to warm up. "First answer" is opening,
compiling and one image, on the clock. bhvit gets pixels of the size that it crops from: its times include cropping
and normalising, those of ONNX Runtime Web nothing but the network. Other programs ran at the same time (load
{load:.1f}): compare the last column.

{tables[0]}

{tables[1]}

What a page loads in addition to the model:

{sizes}"""
    write_results(args.page, "bhvit and ONNX Runtime Web", text)


def prepare(folder: Path, ort: Path, networks: Path | None = None) -> None:
    """The engines and the networks, as one site; networks that are in their folder already are taken from there."""
    kept = networks or folder
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copytree(find_library(), folder / "bhvit")
    shutil.copytree(ort, folder / "ort", ignore=shutil.ignore_patterns("*.map"))
    entries = []
    for name in ("bhvit_small", "bhvit_tiny"):
        torch.manual_seed(0)
        if not (kept / f"{name}.bhv").exists():
            bhvit.pack(randomise(create_model(name)), kept / f"{name}.bhv")
        for variant, wasm in (("relaxed SIMD where there is", None), ("SIMD", "bhvit/bhvit.wasm")):
            entry = {"name": f"{name}, {variant}", "engine": "bhvit", "file": f"{name}.bhv"}
            entries.append(entry | ({"wasm": wasm} if wasm else {}))
    for name, precisions in NETWORKS.items():
        files = {"float32": f"{name}.onnx", "int8": f"{name}-int8.onnx"}
        if not all((kept / files[precision]).exists() for precision in precisions):
            peers._exported(name, kept)
        for precision in precisions:
            entry = {"name": f"{name}, {precision}", "engine": "ONNX Runtime Web", "file": files[precision]}
            entries.append(entry)
    for entry in entries:
        if kept != folder and not (folder / entry["file"]).exists():
            shutil.copy(kept / entry["file"], folder)
    (folder / "entries.json").write_text(json.dumps(entries))
    shutil.copy(HERE / "turns.mjs", folder)
    (folder / "index.html").write_text("<!doctype html><title>Benchmark</title>")


_IN_PAGE = """async (seconds) => {
  const [{ measure }, { Bhvit }, ort, entries] = await Promise.all([
    import("/turns.mjs"), import("/bhvit/index.js"), import("/ort/ort.wasm.min.mjs"),
    fetch("/entries.json").then((response) => response.json())]);
  const read = async (name) => new Uint8Array(await (await fetch(`/${name}`)).arrayBuffer());
  ort.env.wasm.wasmPaths = "/ort/";
  return measure({ Bhvit, ort, read, entries, seconds });
}"""


def in_chromium(folder: Path, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """The measurements, and the browser's version."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    Quiet.extensions_map[".mjs"] = "text/javascript"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        rows: list[dict[str, Any]] = page.evaluate(_IN_PAGE, seconds)
        version = browser.version
        browser.close()
    server.shutdown()
    return rows, version


def load_sizes(folder: Path) -> str:
    """Bytes of each engine, plain and compressed."""
    scripts = sorted((folder / "bhvit").glob("*.js"))
    ours = {"bhvit": [*scripts, folder / "bhvit" / "bhvit.wasm"]}
    rows = []
    for name, files in (ours | {"ONNX Runtime Web": [folder / "ort" / file for file in _ORT_FILES]}).items():
        contents = [file.read_bytes() for file in files]
        plain, packed = sum(map(len, contents)), sum(len(gzip.compress(data)) for data in contents)
        rows.append([name, f"{plain / 1e3:.0f}", f"{packed / 1e3:.0f}"])
    return markdown(["Engine", "kB", "kB, gzip"], rows)


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    small = rows[0]["median"]
    header = [f"{title}: network", "Run by", "Median", "p10", "p90", "First answer", "Model MB", "Times the first"]
    lines = [
        [row["name"], row["engine"]]
        + [f"{row[key]:.1f}" for key in ("median", "p10", "p90", "first")]
        + [f"{row['bytes'] / 1e6:.1f}", f"{row['median'] / small:.2f}"]
        for row in rows
    ]
    return markdown(header, lines)


if __name__ == "__main__":
    main()
