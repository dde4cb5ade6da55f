"""Train a recipe for so many seconds and keep what goes on from there in small files.

    python -m benchmarks.accuracy.gpu_run --data DATA --recipe small --seconds 240 --out kept [--set epochs=200]

When the time is over, the run stops between two steps as after Ctrl-C. What is kept in `--out` has no file above
`LIMIT`: settings, log, the last and the best model where they are small enough, and what `--resume` needs, cut into
parts. Called again with the same `--out`, the run goes on from there, exactly; `--resume-from` names another folder of
kept files, which may be read-only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from bhvit.train import TrainConfig, train
from bhvit.train.config import parse_setting
from bhvit.train.interrupt import Interrupted
from bhvit.train.recipe_files import load_recipe, merged
from bhvit.train.run_folder import RunFolder

LIMIT = 15 * 2**20
"""Bytes of the largest file that is kept."""
PART = "resume.part"


def keep(run: Path, kept: Path) -> list[str]:
    """Copy what goes on from a run into a folder of small files. Names of those left out because they are too large."""
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob(f"{PART}*"):
        old.unlink()
    left_out = []
    for path in sorted(run.iterdir()):
        if path.name == "resume.safetensors":
            content = path.read_bytes()
            for number, start in enumerate(range(0, len(content), LIMIT)):
                (kept / f"{PART}{number}").write_bytes(content[start : start + LIMIT])
        elif path.is_file() and not path.name.startswith("."):
            if path.stat().st_size <= LIMIT:
                shutil.copyfile(path, kept / path.name)
            else:
                left_out.append(path.name)
    return left_out


def restore(kept: Path, run: Path) -> bool:
    """Make a run's folder of what `keep` left. Whether there was anything."""
    parts = sorted(kept.glob(f"{PART}*"), key=lambda path: int(path.name[len(PART) :]))
    if not parts:
        return False
    run.mkdir(parents=True, exist_ok=True)
    for path in kept.iterdir():
        if path not in parts:
            shutil.copyfile(path, run / path.name)
    (run / "resume.safetensors").write_bytes(b"".join(part.read_bytes() for part in parts))
    return True


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

    # Before anything else, so that what comes first counts too.
    timer = threading.Timer(args.seconds, os.kill, (os.getpid(), signal.SIGINT))
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
            train(config, resume=resume)
        except Interrupted:
            finished = False
        finally:
            timer.cancel()
        left_out = keep(run, args.out)
        log = RunFolder(run).entries()
    summary = {
        "finished": finished,
        "epochs": len(log),
        "of": sum(phase.epochs for phase in config.phase_configs()),
        "last": log[-1] if log else None,
        "best_val_top1": max((line["val_top1"] for line in log), default=None),
        "too_large_to_keep": left_out,
    }
    for name in ("flipped", "oscillating"):
        if summary["last"]:
            summary["last"].pop(name, None)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
