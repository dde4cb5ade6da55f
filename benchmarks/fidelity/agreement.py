"""Compare packed files' answers with PyTorch's on real images.

The weights are those of the recorded cases, and all floats are stored as float32.

    python -m benchmarks.fidelity.agreement --data ../shared/data/tiny-imagenet --images 1000

Writes `agreement.md` next to this file, or what --out names.
Every case is packed, run over validation images resized to 224, and compared
with PyTorch in float32; a few images are followed op by op, each op on the same input, and the signs that fell
the other way are counted.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import markdown, write_results

from bhvit.data.dataset import Dataset, evenly, open_dataset
from bhvit.data.metrics import Floats, predict_all
from bhvit.format import file as bhv_file
from bhvit.models import BHViT, from_published, save_checkpoint
from bhvit.packing import pack
from bhvit.verification.compare import Comparison, compare
from bhvit.verification.flips import total
from helpers import golden

NOTE = """\
Agreement: images whose most likely class is the same. Classes: how many different ones PyTorch answered. On the same
input: of the traced images, signs and attention levels that fell the other way in PyTorch (flipped), all decisions, the
largest distance of a flipped one from its threshold over the values' root mean square, and whether every difference
of every op follows from a flipped decision. The weights are drawn at random, so logits lie close together
and one flipped sign weighs more than in a trained model."""

FLOOR = """\
How far float32 itself is from float64, on the same images: the first column is PyTorch against PyTorch, so no float32
execution can be asked to agree with it more closely than this."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/tiny-imagenet", help="images: folder, parquet or archive")
    parser.add_argument("--images", type=int, default=1000, help="of the validation split, evenly chosen")
    parser.add_argument("--cases", nargs="+", choices=list(golden.CASES), default=list(golden.CASES), metavar="CASE")
    parser.add_argument("--out", default="agreement.md", help="name of the page (default agreement.md)")
    parser.add_argument("--traced", type=int, default=8, help="images followed op by op")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(args.data, "validation")
    chosen_images = dataset.subset(evenly(len(dataset), args.images))
    rows, floor = [], []
    for case in args.cases:
        model = from_published(golden.weights(case)).float()
        found, kinds = _compare(model, chosen_images, args.traced)
        flips = total(found.flips)
        rows.append(
            [
                case,
                f"{found.agreement:.2%}",
                kinds,
                f"{found.logit_difference:.1e}",
                "yes" if found.reference_parts_at is None else f"no, at {found.reference_parts_at}",
                flips.flipped,
                f"{flips.decisions / 1e6:.1f} M",
                f"{flips.farthest:.0e}" if flips.flipped else "",
                "yes" if flips.explained else "no",
            ]
        )
        exact = _exact(model, chosen_images)
        floor.append([case, *(_pair(found, exact, who) for who in ("torch", "native"))])
        print(rows[-1], floor[-1], flush=True)
    header = (
        "Case | Top-1 agreement | Classes | Largest logit difference | Native equals reference | Flipped | "
        "Decisions | Farthest | Explained"
    ).split(" | ")
    text = f"{args.images} validation images of {Path(args.data).name}, {args.traced} of them traced. "
    write_results(
        Path(__file__).with_name(args.out),
        "Packed files and PyTorch on real images",
        f"{text}{NOTE}\n\n{markdown(header, rows)}\n\n{FLOOR}\n\n"
        + markdown(["Case", "PyTorch float32 with float64", "Packed file with float64"], floor),
    )


def _exact(model: BHViT, dataset: Dataset) -> Floats:
    """Logits of `model` in float64, (N, classes)."""
    double = copy.deepcopy(model).double()
    preprocess = bhv_file.describe_spec(model.spec).preprocess

    def predict(images: Floats) -> Floats:
        with torch.inference_mode():
            logits: Floats = double(torch.from_numpy(images).double()).numpy()
        return logits

    return predict_all(predict, dataset, preprocess, batch_size=16)[0]


def _pair(found: Comparison, exact: Floats, who: str) -> str:
    logits = getattr(found, who).logits
    same = (logits.argmax(axis=1) == exact.argmax(axis=1)).mean()
    return f"{same:.2%}, logits apart by {np.sqrt(np.mean((logits - exact) ** 2)):.3f} (rms)"


def _compare(model: BHViT, dataset: Dataset, traced: int) -> tuple[Comparison, int]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, packed = Path(folder) / "model.safetensors", Path(folder) / "model.bhv"
        save_checkpoint(model, checkpoint)
        pack(model, packed, float_storage="float32")
        found = compare(checkpoint, packed, dataset, threads=1, traced=traced, labelled=False)
    return found, len(set(found.torch.logits.argmax(axis=1).tolist()))


if __name__ == "__main__":
    main()
