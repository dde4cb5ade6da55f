"""Compare our models with the published code in float64.

Of the published code there are recorded cases, and the code itself.

    python -m benchmarks.fidelity.fidelity --published ../BHViT --published-binaryvit ../BinaryViT

The recorded cases are those of `tests/golden`. The two options are checkouts of the published repositories
(IMRL/BHViT and Phuoc-Hoan-Le/BinaryViT), whose code is then run next to ours under many switches. Writes
`results.md` next to this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.common import markdown, write_results

from bhvit.models import from_published, to_published, trace
from helpers import golden

from .live import compare, gradients, relative, same_names

SHIFT = {"replace_ln_bn": True, "shift3": True, "shift5": True}
POOL = {"replace_ln_bn": True, "avg_res3": True, "avg_res5": True}
FLOAT = {"weight_bits": 32, "input_bits": 32}
TOLD = {"weight_bits": "told the weight bits", "recu": "told ReCU"}

BHVIT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as published": ({}, {}),
    "full-precision downsampling (†)": ({"some_fp": True}, {}),
    "layer norm": ({"replace_ln_bn": False}, {}),
    "shift 3 alone": ({"shift5": False}, {}),
    "shift 5 alone": ({"shift3": False}, {}),
    "no shifts": ({"shift3": False, "shift5": False}, {}),
    "GSB attention": ({"gsb": True}, {}),
    "GSB attention, layer norm, †, 10 classes": (
        {"gsb": True, "replace_ln_bn": False, "some_fp": True, "classes": 10},
        {},
    ),
    "ReCU": ({"recu": True}, {"recu": True}),
    "10 classes": ({"classes": 10}, {}),
    "200 classes": ({"classes": 200}, {}),
    "full precision": (FLOAT, {}),
    "full precision, layer norm, †": (FLOAT | {"replace_ln_bn": False, "some_fp": True}, {}),
    "full-precision weights": ({"weight_bits": 32}, {"weight_bits": 32}),
    "full-precision activations": ({"input_bits": 32}, {"weight_bits": 1}),
}
BINARYVIT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as published": ({}, {}),
    "full-precision downsampling (†)": ({"some_fp": True}, {}),
    "layer norm": ({"replace_ln_bn": False}, {}),
    "pooling 3 alone": ({"avg_res5": False}, {}),
    "pooling 5 alone": ({"avg_res3": False}, {}),
    "no pooling": ({"avg_res3": False, "avg_res5": False}, {}),
    "10 classes": ({"classes": 10}, {}),
    "full precision": (FLOAT, {}),
    "full precision, layer norm, †": (FLOAT | {"replace_ln_bn": False, "some_fp": True}, {}),
    "full-precision weights": ({"weight_bits": 32}, {"weight_bits": 32}),
    "full-precision activations": ({"input_bits": 32}, {"weight_bits": 1}),
}
TRAINED = ("as published", "layer norm", "GSB attention", "full precision")
"""Switches under which training mode is compared, too: batch statistics, first-batch initialisation."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, metavar="DIR", help="checkout of IMRL/BHViT")
    parser.add_argument("--published-binaryvit", type=Path, metavar="DIR", help="checkout of Phuoc-Hoan-Le/BinaryViT")
    args = parser.parse_args()
    header = ["Recorded case", "Logits", "Blocks", "Loss", "Gradient norms", "Gradient sums", "Names"]
    text = [_EXPLANATION, markdown(header, [_recorded(case) for case in golden.CASES])]
    rows = []
    if args.published:
        rows += _live(args.published, "bhvit_tiny", BHVIT, SHIFT)
        rows += _live(args.published, "bhvit_small", BHVIT, SHIFT)
    if args.published_binaryvit:
        rows += _live(args.published_binaryvit, "binaryvit_small", BINARYVIT, POOL)
    if rows:
        header = ["Model", "Switches", "Mode", "Logits", "Blocks", "Loss", "Gradients", "Sums", "State", "Names"]
        text += [_EXPLANATION_LIVE, markdown(header, rows)]
    write_results(Path(__file__).with_name("results.md"), "Fidelity to the published code", "\n\n".join(text))


_EXPLANATION = """Relative differences in float64, the worst of each kind: of arrays, the largest difference over \
the largest magnitude; of gradients, the worst parameter. Sums of a gradient that cancel are measured against its \
norm. Names: whether `to_published(from_published(x))` is `x`, names, shapes and values."""
_EXPLANATION_LIVE = """Against the published code itself, run next to ours on one image (two when training), with \
every weight drawn from its name. Gradients: norm of the difference over the norm. State: what a training step \
leaves in running statistics and in quantisers that initialise themselves. The architecture is inferred; "told" \
marks what names cannot tell."""


def _recorded(case: str) -> list[str]:
    expected, state = golden.expected(case), golden.weights(case)
    model = from_published(state)
    images = torch.tensor(golden.images(case))
    binaryvit = model.spec.branches == "pool"
    seen = trace(model, images)
    grids = [value for key, value in seen.items() if key == "stem" or key.endswith(".mlp")]
    blocks = []
    for number, grid in enumerate(grids, start=-1):
        key = "stem" if number < 0 else f"block{number}"
        if f"{key}.mean" in expected:
            corner = grid.flatten(1, 2)[:, :9, :8] if binaryvit else grid.permute(0, 3, 1, 2)[:, :8, :3, :3]
            blocks += [relative(grid.mean(dim=(1, 2)), expected[f"{key}.mean"])]
            blocks += [relative(corner, expected[f"{key}.corner"])]
    logits = model(images)
    loss = F.cross_entropy(logits, torch.arange(len(images)))
    loss.backward()
    ours = gradients(model)
    if ours.keys() != set(map(str, expected["grad.names"])):
        raise ValueError(f"{case}: gradients of other names")
    norms, sums = [], []
    for name, norm, total in zip(expected["grad.names"], expected["grad.l2"], expected["grad.sum"], strict=True):
        gradient = ours[str(name)]
        norms.append(abs(gradient.norm().item() - norm) / norm)
        sums.append(abs(gradient.sum().item() - total) / max(abs(total), norm))
    worst = relative(logits.detach(), expected["logits"]), max(blocks), relative(loss.item(), expected["loss"])
    return [case, *map(_number, (*worst, max(norms), max(sums))), _yes(same_names(to_published(model), state))]


def _live(
    checkout: Path,
    name: str,
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]],
    usual: dict[str, Any],
) -> list[list[str]]:
    rows = []
    for case, (switches, told) in cases.items():
        label = ", ".join([case, *(TOLD[key] for key in told)])
        for training in (False, True) if case in TRAINED and name != "bhvit_small" else (False,):
            found = compare(
                checkout,
                name,
                switches=usual | switches,
                told=told,
                seed=7,
                batch=1 + training,
                training=training,
            )
            worst = found.logits, found.blocks, found.loss, found.gradients, found.sums, found.state
            rows.append(
                [name, label, "training" if training else "evaluation", *map(_number, worst), _yes(found.names)]
            )
            print(*rows[-1], sep="  ", flush=True)
    return rows


def _number(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


if __name__ == "__main__":
    main()
