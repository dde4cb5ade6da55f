"""Make a bundled model from finished runs: file, checkpoint and card.

    python -m benchmarks.accuracy.package --model cifar10 --runs runs/third runs/fourth --data ../shared/data/cifar10

`bundled.toml`, next to this file, holds the commands of all its runs and what the card says of its images; `--runs`
names the runs whose accuracy the card shows; their logs are kept in `logs/`, as NAME-first.jsonl and so on. The
checkpoint is that of the last epoch, so that nothing was chosen by looking at the test images. Its latent weights are
stored in float16; the packed file is made from that checkpoint, so `bhvit pack NAME` gives the same bytes. Run
`benchmarks.accuracy.confidence` afterwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from benchmarks.common import markdown

import bhvit
from bhvit.bundled import DEFAULT, FOLDER
from bhvit.cost.counts import op_costs, total
from bhvit.data.classes import read_class_names
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.metrics import Floats, Metrics, agreement, evaluate
from bhvit.files import write_atomically
from bhvit.format import file as bhv_file
from bhvit.format.checkpoint import CheckpointDescription
from bhvit.models.base.weights import read_weights
from bhvit.models.checkpoint import checksum
from bhvit.system import environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DESCRIPTIONS = Path(__file__).with_name("bundled.toml")
LOGS = Path(__file__).with_name("logs")
"""Logs of the runs of NAME are NAME-*.jsonl there."""
SHOWN = 10
"""Classes in each half of the table where there are more than twice as many: the best and the worst."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, help="its name, with a description in bundled.toml")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="the last one is bundled")
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder of parquet files")
    parser.add_argument("--classes", type=Path, help="file of class names, where the runs knew others")
    args = parser.parse_args()
    about = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))[args.model]
    model, packed = _write_files(args.model, args.runs[-1], args.classes)

    torch.set_num_threads(1)
    session, preprocess = bhvit.Session(packed), bhv_file.read(packed).preprocess

    def predict(images: Floats) -> Floats:
        with torch.no_grad():
            logits: Floats = model(torch.from_numpy(images)).numpy()
        return logits

    measured = {}
    for images in about["images"]:
        dataset = _images(args.data, images, session.class_names)
        measured[images["what"]] = evaluate(session, dataset, preprocess), evaluate(predict, dataset, preprocess)
    log = [
        json.loads(line) for run in args.runs for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    card = _card(args.model, about, model, packed, measured, log)
    (FOLDER / f"{args.model}.md").write_text("\n".join(line.rstrip() for line in card.splitlines()) + "\n")
    print(card)


def _write_files(name: str, run: Path, classes: Path | None) -> tuple[bhvit.BHViT, Path]:
    """Write the checkpoint with float16 latent weights, and the packed file made from it."""
    checkpoint, packed = FOLDER / f"{name}.safetensors", FOLDER / f"{name}.bhv"
    tensors, metadata = read_weights(run / "last.safetensors")
    halved = {
        key: tensor.half() if tensor.ndim >= 2 and key.endswith(".weight") else tensor
        for key, tensor in tensors.items()
    }
    described = CheckpointDescription.from_metadata(metadata, run)
    names = described.class_names if classes is None else read_class_names(classes)
    described = dataclasses.replace(described, checksum=checksum(halved), class_names=names)
    write_atomically(checkpoint, safetensors.torch.save(halved, described.to_metadata()))
    model = bhvit.load_checkpoint(checkpoint)
    bhvit.pack(model, packed, force=True)
    return model, packed


def _images(data: str, described: Mapping[str, Any], names: Sequence[str]) -> Dataset:
    if "file" in described:
        dataset = open_dataset(str(next(Path(data).glob(described["file"]))), "all", class_names=names)
    else:
        dataset = open_dataset(data, described["split"], class_names=names)
    return dataset.subset(range(described["first"])) if "first" in described else dataset


def _card(
    name: str,
    about: Mapping[str, Any],
    model: bhvit.BHViT,
    packed: Path,
    measured: Mapping[str, tuple[Metrics, Metrics]],
    log: Sequence[Mapping[str, Any]],
) -> str:
    checkpoint, names = packed.with_suffix(".safetensors"), model.class_names or ()
    costs, (height, width) = total(op_costs(model.spec)), model.spec.img_size
    rows = [
        [what, f"{native.top1:.2%}", f"{native.top5:.2%}", f"{by_torch.top1:.2%}", f"{agreement(native, by_torch):.2%}"]
        for what, (native, by_torch) in measured.items()
    ]
    history = "\n".join(
        f"{i}. {step['done']}:\n   `{' '.join(step['command'].split())}`" for i, step in enumerate(about["history"], 1)
    )
    minutes = about["minutes_before"] + sum(line["seconds"] for line in log) / 60
    listed = f": {', '.join(names)}" if len(names) <= 2 * SHOWN else ""
    used = (
        f'What `bhvit classify` and\n`bhvit.Session("{name}")` use'
        if name == DEFAULT
        else f'`bhvit.Session("{name}")` uses it'
    )
    return f"""# The bundled model `{name}`

`{model.spec.name}` on {height}×{width} RGB images of {about["knows"]}{listed}. {used}; \
`bhvit train --init {name}` starts from its checkpoint.

| | |
|---|---|
| `{packed.name}` | {size_and_digest(packed)} |
| `{checkpoint.name}` | {size_and_digest(checkpoint)}; to train further from, latent weights in float16 |
| Parameters | {costs.parameters / 1e6:.2f} M; {costs.binary_parameters / 1e6:.2f} M of them are single bits |
| Multiply-accumulates an image | {costs.binary_macs / 1e6:.1f} M binary, {costs.float_macs / 1e6:.2f} M others |

## Accuracy

The last epoch's weights; nothing was chosen by looking at these images.

{markdown(["Images", "Top-1, packed", "Top-5, packed", "Top-1, PyTorch", "Their top-1 agreement"], rows)}

{about["note"]}

{_per_class(next(iter(measured.values()))[0])}

Recheck: `bhvit eval {name} --data FOLDER` {about["recheck"]}.

## Training

{about["source"]}

{history}

* Budget of all this: {minutes:.0f} minutes, one thread, no GPU; the last runs on a processor that calls itself \
{environment()["processor"]}, shared with other work.
* Validation accuracy of the last runs by epoch: {", ".join(f"{line['val_top1']:.1%}" for line in log)}. \
{about["validation"]}
* Logs: {", ".join(f"`{path.name}`" for path in sorted(LOGS.glob(f"{name}-*.jsonl")))} in `benchmarks/accuracy/logs`.

## Limits

It knows {about["knows"]}, and answers with one of them whatever it is shown. It was trained for \
{minutes / 60:.1f} hours on one core: networks in full precision that are trained on a GPU are right on far more \
images. Photographs are shrunk to {height}×{width} pixels, so that small objects vanish. Not for decisions about people.
"""


def size_and_digest(path: Path) -> str:
    """What a card says of a file."""
    return f"{path.stat().st_size:,} bytes, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`"


def _per_class(metrics: Metrics) -> str:
    rows = [[name, f"{accuracy:.1%}"] for name, accuracy in zip(metrics.class_names, metrics.per_class, strict=True)]
    header = ["Class", "Right, of its images"]
    if len(rows) <= 2 * SHOWN:
        return markdown(header, rows)
    order = np.argsort(-metrics.per_class, kind="stable")
    chosen = [*order[:SHOWN], *order[-SHOWN:]]
    return f"The {SHOWN} classes that it knows best, and the {SHOWN} that it knows worst:\n\n" + markdown(
        header, [rows[index] for index in chosen]
    )


if __name__ == "__main__":
    main()
