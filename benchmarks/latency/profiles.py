"""Time every op of the published sizes, as `bhvit bench --profile` does.

    python -m benchmarks.latency.profiles

Random weights with random, non-degenerate norm statistics, 224x224, 1000 classes. Writes `profiles.md` next to this
file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from benchmarks.common import add_page, write_results

from bhvit.cli.bench import profile_text
from bhvit.format import file as bhv_file
from bhvit.models import create_model
from bhvit.packing import pack
from bhvit.timing.profile import profile_ops
from helpers.randomise import randomise

MODELS = "bhvit_small", "bhvit_tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each profile (default 5)")
    add_page(parser, Path(__file__).with_name("profiles.md"))
    args = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bhv"
        for name in MODELS:
            torch.manual_seed(0)
            pack(randomise(create_model(name)), path, force=True)
            for threads in (1, 2):
                text = profile_text(profile_ops(path, bhv_file.read(path), "auto", threads, args.seconds)).strip()
                parts.append(f"## {name}, {threads} thread{'s' * (threads > 1)}\n\n```\n{text}\n```")
    text = (
        "The last column is the time that loops on registers alone would need for an op's multiply-accumulates, of the "
        "time that the op takes: what is missing from 100 % are norms, RPReLUs, residuals, thresholds, softmaxes, GELU "
        "and memory. An op does the batch norm of the op after it."
    )
    write_results(args.page, "Profiles", "\n\n".join([text, *parts]))


if __name__ == "__main__":
    main()
