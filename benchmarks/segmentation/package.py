"""Make the bundled road model from a finished run: its packed file, and a card with what was measured.

    python -m benchmarks.segmentation.package --run RUN --data camvid-320x240.zip --history "COMMAND" "COMMAND"

Nothing is written below an intersection over union of 80 % on the test images, or above 1 MB. The file is that of the
last epoch, so that nothing was chosen by looking at the test images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.accuracy.package import size_and_digest
from benchmarks.common import markdown
from bhvit import Session, bundled, load_checkpoint, pack
from bhvit.cost.counts import op_costs, total
from bhvit.data.masks import open_masked
from bhvit.data.segmentation_metrics import SegmentationMetrics, evaluate_masks
from bhvit.system import environment
from bhvit.train.run_folder import RunFolder

NAME = "road"
LEAST, LARGEST = 0.8, 1_000_000
"""Intersection over union of the road, and bytes."""
LICENCE = """**Not for commercial use.** The weights were learned from CamVid (Brostow, Fauqueur and Cipolla, Pattern
Recognition Letters 2009), which is licensed under [CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/); they
are under the same licence. The code of bhvit is not affected."""
LIMITS = """It has seen one city, in daylight and at dusk, from one camera. Pavements are often taken for road, and dark
roads missed. It is an example of a small binary network, not for driving."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--history", nargs="+", required=True, help="the commands that trained it, in order")
    parser.add_argument("--folder", type=Path, default=bundled.FOLDER)
    args = parser.parse_args()
    packed = args.folder / f"{NAME}.bhv"
    part = args.run / packed.name
    pack(load_checkpoint(args.run / "last.safetensors"), part, force=True)
    session = Session(part)
    test = open_masked(args.data, "test", class_names=session.class_names, warn=lambda line: None)
    metrics = evaluate_masks(session.segment, test)
    found, size = float(metrics.per_class[1]), part.stat().st_size
    print(f"intersection over union {found:.2%}, {size:,} bytes")
    if found < LEAST or size > LARGEST:
        sys.exit(f"not bundled: {LEAST:.0%} and {LARGEST:,} bytes are wanted")
    packed.write_bytes(part.read_bytes())
    trained = json.loads(RunFolder(args.run).data.read_text())["train"]["images"]
    packed.with_suffix(".md").write_text(card(session, packed, metrics, trained, args.history), encoding="utf-8")


def card(session: Session, packed: Path, metrics: SegmentationMetrics, trained: int, history: list[str]) -> str:
    """The model's card."""
    costs, (height, width) = total(op_costs(session.spec)), session.spec.img_size
    rows = [
        [name, f"{value:.2%}", f"{row[label] / row.sum():.2%}"]
        for label, (name, value, row) in enumerate(zip(metrics.class_names, metrics.per_class, metrics.confusion))
    ]
    facts = [
        [f"`{packed.name}`", size_and_digest(packed)],
        [
            "Parameters",
            f"{costs.parameters / 1e6:.2f} M; {costs.binary_parameters / 1e6:.2f} M of them are single bits",
        ],
        [
            "Multiply-accumulates an image",
            f"{costs.binary_macs / 1e6:.1f} M binary, {costs.float_macs / 1e6:.2f} M others",
        ],
    ]
    return f"""# The bundled model `{NAME}`

Road against everything else in street scenes, seen from a car:
`bhvit segment street.jpg --model {NAME} --out labelled`.
`{session.spec.name}` on {height}×{width} pixels; pictures are resized to them and their labels back.

{markdown(["", ""], facts)}

## Licence

{LICENCE}

## Accuracy

On the {metrics.images} test images of CamVid at 320×240 pixels, by the packed file of the last epoch:

{markdown(["Class", "Intersection over union", "Of its pixels found"], rows)}

Recheck: `bhvit eval {NAME} --data camvid-320x240.zip`.

## Training

{trained} images of the training and validation splits, one thread of {environment()["processor"]}, no GPU.

{chr(10).join(f"{number}. `{command}`" for number, command in enumerate(history, 1))}

* Log of the second: `road.jsonl` in `benchmarks/accuracy/logs`.

## Limits

{LIMITS}
"""


if __name__ == "__main__":
    main()
