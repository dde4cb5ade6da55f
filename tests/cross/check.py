"""Build the engine for other processors, run it emulated and compare every float with the NumPy reference by ==.

    python tests/cross/check.py [aarch64] [wasm] [avx512]

    aarch64   NEON and plain C++, under qemu-user
    wasm      WebAssembly SIMD and plain C++, in Node
    avx512    both AVX-512 files, each intrinsic replaced by SIMDe's portable function; needs an x86-64 machine

`pip install ziglang` brings the compiler of the first, whose first run takes minutes; Debian's packages are qemu-user,
libc6-arm64-cross, emscripten and libsimde-dev. Every op and option is run, on the small models of
tests/helpers/small_specs.py, and pictures are resized. Where the processor has rounding modes and flushes subnormal
floats, the caller's settings must change no bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from bhvit import _native  # noqa: E402
from bhvit.format import file as bhv_file  # noqa: E402
from bhvit.format.file import PackedModel  # noqa: E402
from bhvit.runtime import reference  # noqa: E402
from helpers.random_model import random_images, random_model  # noqa: E402
from helpers.small_specs import SPECS  # noqa: E402

IMAGES = 2
RESIZED = 100
FILTERS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
FLAGS = ("-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror")
ZIG = (sys.executable, "-m", "ziglang", "c++", "-target")
EMULATED = ("-O1", "-Wno-psabi", "-isystem", str(HERE))  # puts tests/cross/immintrin.h before the compiler's


@dataclasses.dataclass(frozen=True)
class Target:
    compiler: tuple[str, ...]
    run: tuple[str, ...]  # what runs the driver
    tools: dict[str, str]  # command -> what brings it
    flags: dict[str, tuple[str, ...]]  # of single source files, by stem; "" stands for all of them
    isas: tuple[str, ...]  # files in native/kernels/, the fastest first
    link: tuple[str, ...] = ()
    settings: int = 0  # of the floating-point environment that environment.cc tries


TARGETS = {
    "aarch64": Target(
        compiler=(*ZIG, "aarch64-linux-gnu"),
        run=("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
        tools={"qemu-aarch64": "apt-get install qemu-user libc6-arm64-cross"},
        flags={"": ("-DBHVIT_ARM64",)},
        isas=("neon", "scalar"),
        settings=5,
    ),
    "wasm": Target(
        compiler=("em++", "-fexceptions"),
        run=("node",),
        tools={"em++": "apt-get install emscripten", "node": "apt-get install nodejs"},
        flags={"": ("-DBHVIT_WASM", "-msimd128")},
        isas=("wasm", "scalar"),
        link=("-sNODERAWFS=1", "-sALLOW_MEMORY_GROWTH=1", "-sWASM_ASYNC_COMPILATION=0"),
    ),
    "avx512": Target(
        compiler=(os.environ.get("CXX", "c++"),),
        run=(),
        tools={},
        flags={
            "": ("-DBHVIT_X86",),
            "avx2": ("-mavx2", "-mpopcnt"),
            "avx512": EMULATED,
            "avx512bw": EMULATED,
            "dispatch": ("-D__builtin_cpu_supports(feature)=1",),
        },
        isas=("avx512", "avx512bw", "avx2", "sse2", "scalar"),
        settings=5,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all if none is given")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]!r}; there are {', '.join(TARGETS)}")
    for name in args.targets or TARGETS:
        for tool, package in TARGETS[name].tools.items():
            if not shutil.which(tool):
                sys.exit(f"{name} needs {tool}: {package}")
        driver = build(name, TARGETS[name])
        with tempfile.TemporaryDirectory() as folder:
            compared = sum(check(name, driver, Path(folder), model) for model in models())
            refuses_damage(name, driver, Path(folder))
            resizes(name, build(name, TARGETS[name], HERE / "resize.cc"), Path(folder))
            if TARGETS[name].settings:
                keeps_environment(name, build(name, TARGETS[name], HERE / "environment.cc"), Path(folder))
        isas = ", ".join(TARGETS[name].isas)
        print(f"{name}: {isas} give the reference's bits, {compared} floats of {len(SPECS) + 1} models")


def build(name: str, target: Target, entry: Path = HERE / "driver.cc") -> Path:
    """The program `entry` with the engine, in build/cross/NAME; files that did not change are not compiled again."""
    folder = ROOT / "build" / "cross" / name
    folder.mkdir(parents=True, exist_ok=True)
    headers = max(path.stat().st_mtime for path in [*(ROOT / "native").rglob("*.h"), *HERE.glob("*.h")])
    objects = []
    engine = [path for part in ("format", "engine", "api") for path in sorted((ROOT / "native" / part).rglob("*.cc"))]
    kernels = [ROOT / "native" / "kernels" / f"{isa}.cc" for isa in target.isas]
    for source in [*engine, *kernels, entry]:
        if source.stem == "bindings":
            continue
        object_file = folder / "-".join(source.relative_to(ROOT).with_suffix(".o").parts)  # two files are resize.cc
        objects.append(object_file)
        if object_file.exists() and object_file.stat().st_mtime > max(headers, source.stat().st_mtime):
            continue
        flags = (*FLAGS, *target.flags[""], *target.flags.get(source.stem, ()))
        _run([*target.compiler, *flags, f"-I{ROOT / 'native'}", "-c", str(source), "-o", str(object_file)])
    program = folder / entry.stem
    _run([*target.compiler, *target.flags[""], *target.link, *map(str, objects), "-o", str(program)])
    return program


def models() -> Iterator[PackedModel]:
    """A model of every small spec, and one whose products are the largest there are."""
    for spec in SPECS:
        yield random_model(spec, seed=len(spec.name))
    model = random_model(SPECS[0])
    tensors = dict(model.tensors)
    for name, tensor in tensors.items():
        if ".mlp." in name and tensor.dtype == np.uint32:
            tensors[name] = np.full_like(tensor, 0xFFFFFFFF)
        elif ".mlp." in name and "threshold" in name:
            tensors[name] = np.full_like(tensor, 1e9)  # all activations are -1, all weights 1
    yield dataclasses.replace(model, tensors=tensors)


def check(name: str, driver: Path, folder: Path, model: PackedModel) -> int:
    """Compare one model on every instruction set of a target; returns how many floats were equal."""
    images = random_images(model.spec, IMAGES)
    traced = [x for image in images for _, x in reference.trace(model, image)]
    logits = reference.run(model, images)
    labels = logits.argmax(axis=1) if model.spec.task == "segment" else np.zeros(0)
    expected = np.concatenate([x.ravel() for x in [*traced, logits, labels.astype(np.float32)]])
    (folder / "model.bhv").write_bytes(bhv_file.to_bytes(model))
    (folder / "images").write_bytes(images.tobytes())
    _run([*TARGETS[name].run, str(driver), *(str(folder / file) for file in ("model.bhv", "images", "values"))])
    found = read_values(folder / "values")
    if tuple(found) != TARGETS[name].isas:
        sys.exit(f"{name}: ran {', '.join(found)}, not {', '.join(TARGETS[name].isas)}")
    for isa, values in found.items():
        if not np.array_equal(values, expected):
            wrong = np.flatnonzero(values != expected) if values.shape == expected.shape else np.zeros(1, int)
            sys.exit(f"{name}: {isa} differs from the reference in {model.spec.name}, first at float {wrong[0]}")
    return len(found) * len(expected)


def resizes(name: str, program: Path, folder: Path) -> None:
    """Pictures resized there must be those resized here, which tests compare with Pillow's."""
    rng = np.random.default_rng(0)
    cases, expected = b"", b""
    for _ in range(RESIZED):
        height, width, new_height, new_width = (int(edge) for edge in np.exp(rng.uniform(0, 4.5, 4)))
        filter = int(rng.integers(len(FILTERS)))
        (left, right), (top, bottom) = (np.sort(rng.uniform(0, edge, 2)) for edge in (width, height))
        whole = rng.integers(2) or right - left < 0.01 or bottom - top < 0.01
        box = np.array((0, 0, width, height) if whole else (left, top, right, bottom), np.float32)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        cases += np.array((height, width, 3, new_height, new_width, filter), np.int32).tobytes()
        cases += box.tobytes() + pixels.tobytes()
        edges = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        expected += _native.resize(pixels, (new_height, new_width), FILTERS[filter], edges).tobytes()
    (folder / "cases").write_bytes(cases)
    _run([*TARGETS[name].run, str(program), str(folder / "cases"), str(folder / "resized")])
    if (folder / "resized").read_bytes() != expected:
        sys.exit(f"{name}: pictures are resized to other bytes")
    print(f"{name}: {RESIZED} pictures resized, {len(expected)} equal bytes")


def refuses_damage(name: str, driver: Path, folder: Path) -> None:
    """A reader that throws must end in its message, however exceptions are made on that machine."""
    (folder / "model.bhv").write_bytes(b"not a model")
    command = [*TARGETS[name].run, str(driver), *(str(folder / file) for file in ("model.bhv", "images", "values"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 1 or "not a .bhv file" not in done.stderr:
        sys.exit(f"{name}: a damaged file ended with {done.returncode}: {done.stderr[-500:]}")


def keeps_environment(name: str, program: Path, folder: Path) -> None:
    """The caller's rounding and flushing of subnormal floats must change no bit and stay as they were."""
    model = random_model(SPECS[0])
    tensors = {
        key: tensor * np.float32(1e-39) if key in ("head.norm_scale", "head.norm_shift", "head.bias") else tensor
        for key, tensor in model.tensors.items()
    }
    (folder / "model.bhv").write_bytes(bhv_file.to_bytes(dataclasses.replace(model, tensors=tensors)))
    command = [*TARGETS[name].run, str(program), str(folder / "model.bhv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.strip() != str(TARGETS[name].settings):
        sys.exit(f"{name}: the caller's floating-point settings: {done.returncode} {done.stdout} {done.stderr[-500:]}")
    print(f"{name}: {TARGETS[name].settings} floating-point settings of the caller change no bit")


def read_values(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """What the driver wrote: instruction set -> floats."""
    data, found = path.read_bytes(), {}
    while data:
        line, _, data = data.partition(b"\n")
        isa, count = line.decode().split()
        found[isa] = np.frombuffer(data[: 4 * int(count)], np.float32)
        data = data[4 * int(count) :]
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"failed with {done.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    main()
