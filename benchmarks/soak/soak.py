"""Run a service-like loop for a long time; check answers, memory and descriptors.

Four threads open and close sessions of a file that is replaced all the time, classify pictures as paths, bytes and
arrays, run batches, overwrite files in place while sessions have them open, and meet damaged models and pictures. Every
answer is compared with the one computed at the start, bit by bit.

For a sample the threads wait between two actions, so that what is then allocated is what the process keeps: the bytes
that malloc has given out, Python's blocks, and the resident memory once malloc has returned its free pages. Before it
does, resident memory also depends on how many threads happened to hold their largest buffers at the same time. Python's
cache of attributes, which keeps up to 4096 names that Pillow's decoders make, is emptied first.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import gc
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.common import add_page, markdown, write_results
from PIL import Image

from bhvit import Session, UserError
from bhvit.bundled import FOLDER
from bhvit.format import file as bhv_file

PAGE = Path(__file__).with_name("results.md")
THREADS, PICTURES, SAMPLES = 4, 12, 12
MAX_GROWTH = 1.02
"""The last quarter's memory compared with the second quarter's, at most."""
MEASURED = {
    "allocated": "bytes allocated by malloc",
    "blocks": "blocks allocated by Python",
    "kept": "resident memory, free pages returned",
}
"""What may grow by `MAX_GROWTH`."""


@dataclasses.dataclass
class Sample:
    """What the process holds at one moment."""

    seconds: float
    allocated: int
    blocks: int
    resident: int
    kept: int
    descriptors: int
    threads: int
    actions: int


class Service:
    """The files, the expected answers and what the threads do with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts, self.faults = folder, collections.Counter[str](), list[str]()
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.may_act, self.acting = threading.Event(), [threading.Lock() for _ in range(THREADS)]
        self.may_act.set()
        first = bhv_file.read(FOLDER / "cifar10.bhv")
        other = {**first.tensors, "head.bias": first.tensors["head.bias"][::-1].copy()}
        self.models = [bhv_file.to_bytes(model) for model in (first, dataclasses.replace(first, tensors=other))]
        rng = np.random.default_rng(0)
        self.arrays = rng.integers(0, 256, (PICTURES, 40, 50, 3), np.uint8)
        self.encoded = [_encoded(array, "PNG") for array in self.arrays]
        for index, data in enumerate(self.encoded):
            (folder / f"{index}.png").write_bytes(data)
        self.shared = Session(self.models[0])
        self.expected = [Session(model)(self.arrays).tobytes() for model in self.models]
        self.answers = [self.shared.classify(array) for array in self.arrays]
        self.replace(0)

    def replace(self, which: int) -> None:
        """Replace the file that the threads open by one of the two models."""
        part = self.folder / f"{threading.get_ident()}.part"
        part.write_bytes(self.models[which])
        part.replace(self.folder / "current.bhv")

    def check(self, right: bool, what: str) -> None:
        if not right:
            with self.lock:
                self.faults.append(what)

    def run(self, seed: int) -> None:
        """Do one thing after the other until told to stop."""
        rng = np.random.default_rng(seed)
        actions: list[Callable[[np.random.Generator], str]] = [
            self.classify,
            self.batch,
            self.open_current,
            self.overwrite,
            self.damaged_model,
            self.damaged_picture,
        ]
        while not self.stop.is_set():
            self.may_act.wait()
            action = actions[int(rng.integers(len(actions)))]
            with self.acting[seed]:
                try:
                    done = action(rng)
                except Exception as error:
                    done = "failed"
                    self.check(False, f"{action.__name__}: {type(error).__name__}: {error}")
                with self.lock:
                    self.counts[done] += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No thread does anything until the end of the context."""
        self.may_act.clear()
        try:
            with contextlib.ExitStack() as held:
                for lock in self.acting:
                    held.enter_context(lock)
                yield
        finally:
            self.may_act.set()

    def classify(self, rng: np.random.Generator) -> str:
        index = int(rng.integers(PICTURES))
        source: Any = (self.folder / f"{index}.png", self.encoded[index], self.arrays[index])[int(rng.integers(3))]
        self.check(self.shared.classify(source) == self.answers[index], "another class")
        return "pictures classified by a shared session"

    def batch(self, rng: np.random.Generator) -> str:
        self.check(self.shared(self.arrays).tobytes() == self.expected[0], "other logits of a batch")
        return "batches of a shared session"

    def open_current(self, rng: np.random.Generator) -> str:
        self.replace(int(rng.integers(2)))
        threads, mapped = int(rng.integers(1, 4)), bool(rng.integers(2))
        with Session(self.folder / "current.bhv", threads=threads, map=mapped) as session:
            self.replace(int(rng.integers(2)))
            self.check(session(self.arrays).tobytes() in self.expected, "other logits of a replaced file")
        return "files replaced, opened, run and closed"

    def overwrite(self, rng: np.random.Generator) -> str:
        path, which = self.folder / f"{threading.get_ident()}.bhv", int(rng.integers(2))
        path.write_bytes(self.models[which])
        with Session(path) as session:
            path.write_bytes(self.models[1 - which][: int(rng.integers(len(self.models[0])))])
            self.check(session(self.arrays).tobytes() == self.expected[which], "other logits of an overwritten file")
        return "files overwritten in place while open"

    def damaged_model(self, rng: np.random.Generator) -> str:
        data = bytearray(self.models[0])
        if rng.integers(2):
            data = data[: int(rng.integers(len(data)))]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        for read in (Session, bhv_file.from_bytes):
            try:
                read(bytes(data))
                self.check(False, "a damaged model was taken")
            except UserError:
                pass
        return "damaged models refused"

    def damaged_picture(self, rng: np.random.Generator) -> str:
        data = self.encoded[int(rng.integers(PICTURES))]
        try:
            # The last 24 bytes of a PNG are checksums and its end: without them, all pixels are still there.
            self.shared.classify(data[: int(rng.integers(len(data) - 24))])
            self.check(False, "a damaged picture was taken")
        except UserError:
            pass
        return "damaged pictures refused"


def _encoded(array: npt.NDArray[np.uint8], kind: str) -> bytes:
    held = io.BytesIO()
    Image.fromarray(array).save(held, kind)
    return held.getvalue()


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def sample(begin: float, actions: int) -> Sample:
    """Read this process's memory, descriptors and threads from glibc, Python and /proc."""
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallInfo
    info = libc.mallinfo2()
    resident = _resident()
    libc.malloc_trim(0)
    return Sample(
        seconds=time.monotonic() - begin,
        allocated=info.uordblks + info.hblkhd,
        blocks=sys.getallocatedblocks(),
        resident=resident,
        kept=_resident(),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=len(list(Path("/proc/self/task").iterdir())),
        actions=actions,
    )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def soak(folder: Path, seconds: float) -> tuple[Service, list[Sample]]:
    """Run the service; a sample every five seconds."""
    service, begin, samples = Service(folder), time.monotonic(), list[Sample]()
    threads = [threading.Thread(target=service.run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    while time.monotonic() - begin < seconds and not service.faults:
        service.stop.wait(min(5, seconds / 20))
        with service.paused():
            samples.append(sample(begin, sum(service.counts.values())))
    service.stop.set()
    for thread in threads:
        thread.join()
    return service, samples


def growth(samples: list[Sample], what: str) -> float:
    """The median of a measure in the last quarter, divided by that in the second."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return statistics.median(getattr(s, what) for s in late) / statistics.median(getattr(s, what) for s in early)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long to run (default 60)")
    add_page(parser, PAGE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service, samples = soak(Path(folder), 60 * args.minutes)
    grown, most = {what: growth(samples, what) for what in MEASURED}, max(s.descriptors for s in samples)
    flat = max(grown.values()) <= MAX_GROWTH and most <= samples[0].descriptors + 2 * THREADS
    minutes = samples[-1].seconds / 60
    rows = [
        (
            f"{s.seconds / 60:.1f}",
            f"{s.allocated / 1e6:.2f}",
            f"{s.blocks:,}",
            f"{s.kept / 1e6:.1f}",
            f"{s.resident / 1e6:.1f}",
            s.descriptors,
            s.threads,
            s.actions,
        )
        for s in [*samples[: -1 : max(1, len(samples) // SAMPLES)], samples[-1]]
    ]
    done = [(what, count) for what, count in sorted(service.counts.items())]
    text = (
        f"{minutes:.0f} minutes, {THREADS} threads, {sum(service.counts.values())} actions. "
        f"Wrong answers and unexpected errors: {len(service.faults)}. Descriptors: at most {most}.\n\n"
        f"Medians of the last quarter, divided by those of the second (at most {MAX_GROWTH}): "
        + ", ".join(f"{MEASURED[what]} {value:.3f}" for what, value in grown.items())
        + f". Not bounded: resident memory before free pages are returned, {growth(samples, 'resident'):.3f}.\n\n"
        + markdown(("Action", "Times"), done)
        + "\n\n"
        + markdown(
            (
                "Minute",
                "Allocated MB",
                "Python's blocks",
                "Resident MB, trimmed",
                "Resident MB",
                "Descriptors",
                "Threads",
                "Actions so far",
            ),
            rows,
        )
    )
    if service.faults:
        text += "\n\n" + "\n".join(f"* {fault}" for fault in service.faults[:20])
    write_results(args.page, "Soak", text)
    return 0 if flat and not service.faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
