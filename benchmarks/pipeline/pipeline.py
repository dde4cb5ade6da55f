"""Measure images a second from JPEG files to answers, by size and cores.

Also the milliseconds to prepare one.

    python -m benchmarks.pipeline.pipeline

bhvit_small next to MobileNetV3-Large in ONNX Runtime and OpenVINO, all with random weights at 224x224, on pictures made
for it. All go through the same threads, decoder and preprocessing (`bhvit.runtime.pipeline`), each thread with a
session of one thread, so that only what runs the network differs; `draft` is the preprocessing's setting. Needs onnx,
onnxscript, onnxruntime and openvino next to the development environment.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import add_page, markdown, write_results
from PIL import Image

import bhvit
from bhvit.data.inputs import open_inputs
from bhvit.image import Preprocess
from bhvit.models import create_model
from bhvit.runtime.pipeline import run_all
from helpers.randomise import randomise

SIZES = {"0.3": (640, 480), "2": (1632, 1224), "12": (4000, 3000)}
"""Megapixels, and width and height."""
FILES = 4
DRAFTS = (0.0, 2.0, 1.0)
Run = Callable[[Any], Any]
"""Normalised images (1, 3, 224, 224) -> scores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn, about (default 2)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    add_page(parser, Path(__file__).with_name("results.md"))
    args = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = {size: make_pictures(folder / size, *edges) for size, edges in SIZES.items()}
        prepared = [prepare_row(size, paths, args.rounds) for size, paths in pictures.items()]
        networks = make_networks(folder, max(args.cores))
        rows = []
        for cores in args.cores:
            os.sched_setaffinity(0, allowed[:cores])
            for size, paths in pictures.items():
                rows += rates(size, paths, cores, networks, args.rounds, args.seconds)
        os.sched_setaffinity(0, allowed)
    header = ("Megapixels", "File kB", *(f"draft {draft:g}" if draft else "all pixels" for draft in DRAFTS))
    text = "CPU milliseconds to decode, resize and normalise a picture, one thread, medians in turns.\n\n"
    text += markdown(header, prepared)
    text += "\n\nImages a second from files to answers, medians in turns (CPU milliseconds of one in brackets).\n\n"
    text += markdown(("Cores", "Megapixels", "Network", "Run by", *header[2:]), rows)
    text += "\n\nThe machine was shared with other work: compare what stands in one row or table, not milliseconds."
    write_results(args.page, "From JPEG files to answers", text)


def make_pictures(folder: Path, width: int, height: int) -> list[Path]:
    """JPEG files with the smooth areas and the noise of photographs."""
    folder.mkdir()
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    paths = []
    for number in range(FILES):
        rng = np.random.default_rng(number)
        waves = np.stack([np.sin(x / (37 + 9 * number)), np.cos(y / 53), np.sin((x + y) / 91)], axis=2)
        noise = rng.normal(0, 8, (height, width, 1)).astype(np.float32)
        pixels = np.clip(128 + 80 * waves + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=88)
    return paths


def prepare_row(size: str, paths: Sequence[Path], rounds: int) -> list[object]:
    times: dict[float, list[float]] = {draft: [] for draft in DRAFTS}
    for number in range(2 * rounds + 1):
        for draft, found in times.items():
            preprocess = Preprocess(draft=draft)
            begin = time.thread_time()  # not the clock: another program may have the core
            preprocess(paths[number % FILES])
            found.append(1000 * (time.thread_time() - begin))
    kilobytes = round(paths[0].stat().st_size / 1000)
    return [size, kilobytes, *(f"{statistics.median(found[1:]):.1f}" for found in times.values())]


def make_networks(folder: Path, workers: int) -> dict[tuple[str, str], list[Run]]:
    """For each network and engine, what runs it in each of so many threads."""
    import onnxruntime
    import openvino
    import timm

    torch.manual_seed(0)
    packed = folder / "small.bhv"
    bhvit.pack(randomise(create_model("bhvit_small")), packed)
    session = bhvit.Session(packed)
    found: dict[tuple[str, str], list[Run]] = {
        ("bhvit_small", "bhvit"): [session, *(session.copy() for _ in range(workers - 1))]
    }
    path = folder / "mobilenet.onnx"
    model = timm.create_model("mobilenetv3_large_100").eval()
    torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for _ in range(workers)
    ]
    name = sessions[0].get_inputs()[0].name
    runs: list[Run] = [lambda images, one=one: one.run(None, {name: images}) for one in sessions]  # type: ignore[misc]
    found["MobileNetV3-Large", "ONNX Runtime"] = runs
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    core = openvino.Core()
    compiled = [core.compile_model(str(path), "CPU", settings) for _ in range(workers)]
    found["MobileNetV3-Large", "OpenVINO"] = [one.create_infer_request().infer for one in compiled]
    return found


def rates(
    size: str,
    paths: Sequence[Path],
    cores: int,
    networks: dict[tuple[str, str], list[Run]],
    rounds: int,
    seconds: float,
) -> list[list[object]]:
    """Images a second of each network with each setting, in turns."""
    cases = [(key, draft) for key in networks for draft in DRAFTS]
    counts = {case: _count(paths, networks[case[0]][:cores], case[1], seconds) for case in cases}
    found: dict[Any, list[float]] = {case: [] for case in cases}
    spent: dict[Any, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            begin = time.process_time()
            found[case].append(counts[case] / _time(paths, counts[case], networks[case[0]][:cores], case[1]))
            spent[case].append(1000 * (time.process_time() - begin) / counts[case])
    cell = lambda case: f"{statistics.median(found[case]):.1f} ({statistics.median(spent[case]):.1f})"  # noqa: E731
    return [[cores, size, *key, *(cell((key, draft)) for draft in DRAFTS)] for key in networks]


def _count(paths: Sequence[Path], runs: Sequence[Run], draft: float, seconds: float) -> int:
    """How many pictures take about so many seconds; warms up, too."""
    _time(paths, 2, runs, draft)
    each = _time(paths, 2 * FILES, runs, draft) / (2 * FILES)
    return max(2 * FILES, int(seconds / each))


def _time(paths: Sequence[Path], count: int, runs: Sequence[Run], draft: float) -> float:
    preprocess = Preprocess(draft=draft)
    inputs = open_inputs([paths[number % len(paths)] for number in range(count)])
    begin = time.perf_counter()
    for outcome in run_all(inputs, runs, lambda run, picture: run(preprocess(picture.image(preprocess.needed)))):
        assert outcome.error is None
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
