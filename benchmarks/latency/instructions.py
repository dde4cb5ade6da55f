"""Count executed instructions an image on AArch64, WebAssembly and x86-64.

The first two are emulated; x86-64 is there for comparison.

    python -m benchmarks.latency.instructions

Needs an x86-64 machine, what `make check-cross` needs, cmake, and `pip install wasmtime`. A plugin of QEMU's user
emulation counts, for WebAssembly wasmtime's fuel; an image is the difference between running two and three. The logits
of what was counted must be those of this machine's `Session`, by ==. The first run compiles for about ten minutes.
Writes `instructions.md` next to this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import wasmtime
from benchmarks.common import ROOT, add_page, markdown, write_results

from bhvit import Session
from bhvit.cost.counts import op_costs, total
from bhvit.models import create_model
from bhvit.packing import pack
from cross import check
from helpers.randomise import randomise

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "instructions.cc"
MODELS = ("bhvit_small", "bhvit_tiny", "bhvit_nano")
ROUNDS = 100_000
"""Of the loop on registers."""
AARCH64, WASM = (check.TARGETS[name] for name in ("aarch64", "wasm"))
FUEL = 1 << 62

Count = Callable[[list[str], bytes], tuple[int, bytes]]
"""Arguments and standard input of instructions.cc -> instructions of the whole process, standard output."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL")
    add_page(parser, HERE / "instructions.md")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        counters = [(machine, isa, count) for machine, isas, count in _counters(Path(folder)) for isa in isas]
        limits = [_limit(isa, count) for _, isa, count in counters]
        for name in args.models:
            path = Path(folder) / "model.bhv"
            image, macs = _model(name, path)
            for (machine, isa, count), limit in zip(counters, limits):
                executed = _executed(isa, count, path, image)
                each = 1000 * executed / macs
                rows.append(
                    [name, machine, isa, f"{executed / 1e6:.1f}", f"{each:.1f}", f"{limit:.1f}", f"{each / limit:.2f}"]
                )
    header = (
        "Model | Processor | Kernels | Million instructions an image | For 1000 multiply-accumulates | "
        "Loop on registers | Times it"
    ).split(" | ")
    zig = f"zig {_first_line(*check.ZIG[:3], 'version')}, {_first_line(*check.ZIG[:4], '--version')}"
    text = f"""Instructions that a program executes for an image, batch 1, one thread: random weights with \
non-degenerate norm statistics, 1000 classes at 224×224 (nano: 32×32). They say nothing of how long each takes, of how \
many a processor executes at once, or of memory. x86-64 is there for comparison, because its milliseconds are known: \
[results.md](results.md).

* AArch64 and x86-64: every instruction of the emulated processor, libc's included. \
{_first_line(AARCH64.run[0], "--version")}. AArch64 is compiled by {zig}, which calls its mode ReleaseFast, x86-64 by \
{_first_line("c++", "--version")}, -O3.
* WebAssembly: wasmtime's fuel, one for each instruction and call, none for `nop`, `drop`, `block` and `loop`. What \
moves a value between a local and the stack is an instruction here, which a processor need not have, so that these \
numbers compare with each other only. wasmtime {importlib.metadata.version("wasmtime")}; Emscripten \
{_first_line("em++", "-dumpversion")}, -O3 -msimd128.
* scalar: plain C++, compiled with the same options, so that the compiler may use the SIMD that every processor of the \
kind has.
* For 1000 multiply-accumulates: binary ones that are executed. The loop on registers does XOR, population count and \
add as the kernels do, without loading or storing; the last column is an image's instructions over those of the loop.

{markdown(header, rows)}"""
    write_results(args.page, "Instructions", text)


def _model(name: str, path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Pack a model with random weights; returns an image and the executed binary multiply-accumulates of one."""
    torch.manual_seed(0)
    model = randomise(create_model(name))
    pack(model, path, force=True)
    return torch.randn(1, *(3, *model.spec.img_size)).numpy(), total(op_costs(model.spec)).executed_binary_macs


def _executed(isa: str, count: Count, path: Path, image: npt.NDArray[np.float32]) -> int:
    """Instructions of one image, after the first two, in which a dynamic linker may still have functions to find."""
    runs = [count([isa, str(times), str(image.size)], image.tobytes() + path.read_bytes()) for times in (2, 3)]
    for _, logits in runs:
        if logits != Session(path)(image).tobytes():
            sys.exit(f"{isa}: the logits are not those of this machine")
    return runs[1][0] - runs[0][0]


def _limit(isa: str, count: Count) -> float:
    """Instructions for 1000 binary multiply-accumulates of the loop on registers."""
    runs = [count([isa, str(rounds)], b"") for rounds in (ROUNDS, 2 * ROUNDS)]
    return 1000 * (runs[1][0] - runs[0][0]) / (int(runs[1][1]) - int(runs[0][1]))


def _counters(folder: Path) -> Iterator[tuple[str, tuple[str, ...], Count]]:
    """Processors, their kernels, and what counts there."""
    plugin = folder / "plugin.so"
    _run("cc", "-O2", "-shared", "-fPIC", HERE / "instructions_plugin.c", "-o", plugin)
    program = check.build("aarch64", AARCH64, PROGRAM)
    yield "AArch64", AARCH64.isas, _emulated([*AARCH64.run, "-plugin", plugin, program])
    yield "WebAssembly", WASM.isas, _wasm(folder)
    library = ROOT / "build" / "c"
    _run("cmake", "-S", ROOT, "-B", library, "-DCMAKE_BUILD_TYPE=Release")
    _run("cmake", "--build", library)
    program = folder / "program"
    _run("c++", "-std=c++20", "-O3", f"-I{ROOT / 'native'}", PROGRAM, library / "libbhvit.a", "-o", program)
    yield "x86-64", ("avx2", "sse2", "scalar"), _emulated(["qemu-x86_64", "-cpu", "max", "-plugin", plugin, program])


def _emulated(command: list[str | Path]) -> Count:
    def count(arguments: list[str], stdin: bytes) -> tuple[int, bytes]:
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, check=True)
        return int(done.stderr), done.stdout

    return count


def _wasm(folder: Path) -> Count:
    # Optimised as CMake does it; without exceptions, which would need JavaScript: a fault would end the program.
    target = dataclasses.replace(
        WASM,
        compiler=("em++",),
        flags={"": (*WASM.flags[""], "-O3")},
        link=("-O1", "-sSTANDALONE_WASM=1", "-sINITIAL_MEMORY=256MB"),
    )
    program = check.build("wasm-standalone", target, PROGRAM).with_suffix(".wasm")
    config = wasmtime.Config()
    config.consume_fuel = True
    engine = wasmtime.Engine(config)
    module, linker = wasmtime.Module.from_file(engine, str(program)), wasmtime.Linker(engine)
    linker.define_wasi()

    def count(arguments: list[str], stdin: bytes) -> tuple[int, bytes]:
        store, wasi = wasmtime.Store(engine), wasmtime.WasiConfig()
        (folder / "stdin").write_bytes(stdin)
        wasi.argv = ["instructions", *arguments]
        wasi.stdin_file, wasi.stdout_file = str(folder / "stdin"), str(folder / "stdout")
        store.set_wasi(wasi)
        store.set_fuel(FUEL)
        try:
            linker.instantiate(store, module).exports(store)["_start"](store)
        except wasmtime.ExitTrap as end:
            if end.code:
                raise
        return FUEL - store.get_fuel(), (folder / "stdout").read_bytes()

    return count


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    main()
