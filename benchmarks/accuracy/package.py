"""Make the bundled model from finished runs: its file, its checkpoint, and a card with what was measured.

    python -m benchmarks.accuracy.package --runs runs/third runs/fourth --data ../shared/data/cifar10

`HISTORY` holds the commands of all its runs, from the first on; `--runs` names those whose logs the card shows. The
checkpoint is that of the last epoch, so that nothing was chosen by looking at the test images. Its latent weights are
stored in float16; the packed file is made from that checkpoint, so `bhvit pack cifar10` gives the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from benchmarks.common import markdown

import bhvit
from bhvit.bundled import DEFAULT, FOLDER
from bhvit.cost.counts import op_costs, total
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.metrics import Floats, Metrics, agreement, evaluate
from bhvit.files import write_atomically
from bhvit.format import file as bhv_file
from bhvit.format.checkpoint import CheckpointDescription
from bhvit.models.base.weights import read_weights
from bhvit.models.checkpoint import checksum
from bhvit.system import environment

_PATCH_2 = "--model bhvit_nano --set patch=2 --set stem_kernel=4"
_TAUGHT = "--teacher runs/teacher/outputs.npz --set label_smoothing=0 --threads 1"
HISTORY = (
    (
        "16 epochs from scratch at 8×8 tokens, on all 50,000 training images",
        "bhvit train --recipe cifar10 --data FOLDER --out runs/first --threads 1",
    ),
    (
        "16 more from those weights; this was the bundled model of version 0.1.0, 73.28 %",
        (
            "bhvit train --recipe cifar10 --data FOLDER --out runs/second --init runs/first/last.safetensors --lr 1e-3 "
            "--seed 1"
        ),
    ),
    (
        "a full-precision teacher on the 45,000 images that are not held out for validation",
        "python -m benchmarks.accuracy.teacher --data FOLDER --out runs/teacher",
    ),
    (
        "16×16 tokens with overlapping patches, from the weights of 8×8 tokens, stopped after 2 of 12 epochs",
        (
            f"bhvit train --recipe cifar10 --data FOLDER --out runs/third --init runs/second/last.safetensors "
            f"{_PATCH_2} {_TAUGHT} --epochs 12 --lr 1.5e-3 --set warmup_epochs=0.5"
        ),
    ),
    (
        "6 epochs down to a learning rate of 0",
        (
            f"bhvit train --recipe cifar10 --data FOLDER --out runs/fourth --init runs/third/last.safetensors "
            f"{_PATCH_2} {_TAUGHT} --epochs 6 --lr 1.2e-3 --set warmup_epochs=0.2 --seed 1"
        ),
    ),
)
"""What led to the bundled weights: what was done, and the command."""
MINUTES_BEFORE = 135 + 40
"""Minutes, on one thread, of the runs without a log here: the first two, and the teacher."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="the last one is packaged")
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder of parquet files")
    parser.add_argument("--note", default="", help="a sentence for the card, on how the training went")
    args = parser.parse_args()
    checkpoint, packed = FOLDER / f"{DEFAULT}.safetensors", FOLDER / f"{DEFAULT}.bhv"
    tensors, metadata = read_weights(args.runs[-1] / "last.safetensors")
    halved = {
        name: tensor.half() if tensor.ndim >= 2 and name.endswith(".weight") else tensor
        for name, tensor in tensors.items()
    }
    described = CheckpointDescription.from_metadata(metadata, args.runs[-1])
    described = dataclasses.replace(described, checksum=checksum(halved))
    write_atomically(checkpoint, safetensors.torch.save(halved, described.to_metadata()))
    model = bhvit.load_checkpoint(checkpoint)
    bhvit.pack(model, packed, force=True)

    torch.set_num_threads(1)
    session = bhvit.Session(packed)

    def predict(images: Floats) -> Floats:
        with torch.no_grad():
            logits: Floats = model(torch.from_numpy(images)).numpy()
        return logits

    def both(dataset: Dataset) -> tuple[Metrics, Metrics]:
        preprocess = bhv_file.read(packed).preprocess
        return evaluate(session, dataset, preprocess), evaluate(predict, dataset, preprocess)

    names = session.class_names
    images = open_dataset(args.data, "test", class_names=names)
    lossless_file = next(Path(args.data).glob("test_lossless*.parquet"))
    lossless_images = open_dataset(str(lossless_file), "all", class_names=names)
    test, lossless = both(images), both(lossless_images)
    jpeg = both(images.subset(range(len(lossless_images))))
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in args.runs]
    log = [line for lines in logs for line in lines]
    costs = total(op_costs(model.spec))
    rows = [
        [what, f"{native.top1:.2%}", f"{native.top5:.2%}", f"{by_torch.top1:.2%}", f"{agreement(native, by_torch):.2%}"]
        for what, (native, by_torch) in (
            ("test, 10,000 JPEG copies", test),
            (f"test_lossless, {len(lossless_images):,} original images", lossless),
            ("the JPEG copies of those", jpeg),
        )
    ]
    history = "\n".join(f"{i}. {done}:\n   `{command}`" for i, (done, command) in enumerate(HISTORY, 1))
    minutes = MINUTES_BEFORE + sum(line["seconds"] for line in log) / 60
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    card = f"""# The bundled model `{DEFAULT}`

`{model.spec.name}` on 32×32 RGB images of ten kinds: {", ".join(names)}. What `bhvit classify` and
`bhvit.Session("{DEFAULT}")` use; `bhvit train --init {DEFAULT}` starts from its checkpoint.

| | |
|---|---|
| `{packed.name}` | {packed.stat().st_size:,} bytes, sha256 `{digest}` |
| `{checkpoint.name}` | {checkpoint.stat().st_size:,} bytes, to train further from; latent weights in float16 |
| Parameters | {costs.parameters / 1e6:.2f} M; {costs.binary_parameters / 1e6:.2f} M of them are single bits |
| Multiply-accumulates an image | {costs.binary_macs / 1e6:.1f} M binary, {costs.float_macs / 1e6:.2f} M others |

## Accuracy

The last epoch's weights; nothing was chosen by looking at these images.

{markdown(["Images", "Top-1, packed", "Top-5, packed", "Top-1, PyTorch", "Their top-1 agreement"], rows)}

The test images are JPEG copies (quality 75) of CIFAR-10's, so that figures are not comparable with published ones.

{_per_class(test[0])}

Recheck: `bhvit eval {DEFAULT} --data FOLDER` with the parquet files of these images, or `--data cifar10`, which
downloads the original ones (a slightly different set: see above).

## Training

Data: the training images of CIFAR-10 (Krizhevsky, 2009), as JPEG copies of quality 75.

{history}

* Budget of all this: {minutes:.0f} minutes, one thread, no GPU; the last runs on a processor that calls itself \
{environment()["processor"]}, shared with other work. {args.note}
* Validation accuracy of the last runs by epoch: {", ".join(f"{line['val_top1']:.1%}" for line in log)}. The first two
  runs trained on these 5,000 validation images too, so this is optimistic. The test images were never trained on.

## Limits

It knows ten kinds of things, and answers with one of them whatever it is shown. It was trained for
{minutes / 60:.1f} hours on one core: networks in full precision that are trained on a GPU are right on far more images.
Photographs are shrunk to 32×32 pixels, so that small objects vanish. Not for decisions about people.
"""
    (FOLDER / f"{DEFAULT}.md").write_text("\n".join(line.rstrip() for line in card.splitlines()) + "\n")
    print(card)


def _per_class(metrics: Metrics) -> str:
    rows = [[name, f"{accuracy:.1%}"] for name, accuracy in zip(metrics.class_names, metrics.per_class, strict=True)]
    return markdown(["Class", "Right, of 1,000 test images"], rows)


if __name__ == "__main__":
    main()
