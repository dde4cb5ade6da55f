"""The demo, timed: everything from training on the digits to the report.

    python -m benchmarks.demo.demo --out demo

Runs `bhvit demo` and writes `results.md` next to this file from the numbers that the demo leaves.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.common import markdown, write_results

from bhvit.cli.main import main as bhvit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the demo (default demo)")
    args = parser.parse_args()
    status = bhvit(["demo", "--out", str(args.out), "--force"])
    found = json.loads((args.out / "demo.json").read_text(encoding="utf-8"))
    rows: list[list[object]] = [
        ["outcome", found["status"]],
        ["seconds, all of it", found["seconds"]],
        ["held-out images", found["images"]],
        ["top-1, packed file", f"{found['native_top1']:.2%}"],
        ["top-1, PyTorch", f"{found['torch_top1']:.2%}"],
        ["same answer", f"{found['agreement']:.2%}"],
        *([f"bytes, {name}", size] for name, size in found["bytes"].items()),
        *([f"milliseconds an image, {name}", f"{ms:.3f}"] for name, ms in found["milliseconds_per_image"].items()),
    ]
    write_results(Path(__file__).with_name("results.md"), "The demo", markdown(["What", "Value"], rows))
    sys.exit(status)


if __name__ == "__main__":
    main()
