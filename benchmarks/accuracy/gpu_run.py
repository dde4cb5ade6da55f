"""Train a recipe for so many seconds and keep what goes on from there in small files.

    python -m benchmarks.accuracy.gpu_run --data DATA --recipe small --seconds 240 --out kept [--set epochs=200]

When the time is over, or at SIGTERM, the run stops between two steps as after Ctrl-C. What is kept in `--out` has no
file above `LIMIT`: settings, log, the last and the best model and what `--resume` needs, larger files cut into parts.
It is kept every `KEEP_SECONDS` and at the end, so that a run that is killed leaves most of what it had.
Called again with the same `--out`, the run goes on from there, exactly; `--resume-from` names another folder of kept
files, which may be read-only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from bhvit.train import Callback, TrainConfig, train
from bhvit.train.config import parse_setting
from bhvit.train.interrupt import Interrupted
from bhvit.train.recipe_files import load_recipe, merged
from bhvit.train.run_folder import RunFolder

LIMIT = 15 * 2**20
"""Bytes of the largest file that is kept."""
KEEP_SECONDS = 30.0
PART = ".part"


def keep(run: Path, kept: Path) -> None:
    """Copy what goes on from a run into a folder of small files.

    What the folder held before is there until all is written.
    """
    new, old = kept.with_name(f"{kept.name}.new"), kept.with_name(f"{kept.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for path in sorted(run.iterdir()) if run.exists() else []:
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.stat().st_size <= LIMIT:
            shutil.copyfile(path, new / path.name)
            continue
        content = path.read_bytes()
        for number, start in enumerate(range(0, len(content), LIMIT)):
            (new / f"{path.name}{PART}{number:03}").write_bytes(content[start : start + LIMIT])
    if kept.exists():
        kept.rename(old)
    new.rename(kept)
    shutil.rmtree(old, ignore_errors=True)


class Keep(Callback):
    """Keeps a run's files from time to time: those of the epoch before the one that ends."""

    def __init__(self, run: Path, kept: Path) -> None:
        self._run, self._kept, self._last = run, kept, time.monotonic()

    def on_epoch_end(self, entry: Mapping[str, Any], model: Any) -> None:
        if time.monotonic() - self._last >= KEEP_SECONDS and (self._run / "resume.safetensors").exists():
            keep(self._run, self._kept)
            self._last = time.monotonic()


def restore(kept: Path, run: Path) -> bool:
    """Make a run's folder of what `keep` left. Whether there was anything."""
    if not any(kept.glob("resume.safetensors*")):
        return False
    run.mkdir(parents=True, exist_ok=True)
    for path in sorted(kept.iterdir()):  # parts of a file in their order
        with (run / path.name.partition(PART)[0]).open("ab") as file:
            file.write(path.read_bytes())
    return True


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="images, as for `bhvit train`")
    parser.add_argument("--recipe", default="small", help="its name, or a .toml file")
    parser.add_argument("--model", default="bhvit_nano")
    parser.add_argument("--seconds", type=float, default=240, help="after which training stops")
    parser.add_argument("--out", type=Path, required=True, help="folder of small files")
    parser.add_argument("--resume-from", type=Path, help="such a folder to go on from (default: --out)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    args = parser.parse_args()

    # Before anything else, so that what comes first counts too. Not Ctrl-C, which jobs in the background ignore.
    before = signal.signal(signal.SIGTERM, _end)
    timer = threading.Timer(args.seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        resume = restore(args.resume_from or args.out, run)
        if resume:
            config = TrainConfig.from_dict({**RunFolder(run).saved_config().to_dict(), "out": str(run)})
        else:
            given = dict(parse_setting(text) for text in args.set)
            given = {"data": args.data, "model": args.model, **given, "out": str(run)}
            config = TrainConfig.from_dict(merged(load_recipe(args.recipe), given))
        finished = True
        try:
            train(config, resume=resume, callbacks=[Keep(run, args.out)])
        except Interrupted:
            finished = False
        finally:
            timer.cancel()
            signal.signal(signal.SIGTERM, before)
        keep(run, args.out)
        log = RunFolder(run).entries()
    summary = {
        "finished": finished,
        "epochs": len(log),
        "of": sum(phase.epochs for phase in config.phase_configs()),
        "last": log[-1] if log else None,
        "best_val_top1": max((line["val_top1"] for line in log), default=None),
    }
    for name in ("flipped", "oscillating"):
        if summary["last"]:
            summary["last"].pop(name, None)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
