"""The model card: architecture, cost, and how to load, pack and run the model."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence

from ...cost.counts import op_costs, total
from ...errors import counted, listed, printable
from ...spec.model import ModelSpec

_SHOWN = 20
"""Class names that a card lists; the rest are counted."""

_PAPERS = {
    "shift": "[BHViT](https://arxiv.org/abs/2503.02394), CVPR 2025",
    "pool": "[BinaryViT](https://arxiv.org/abs/2306.16678), CVPR Workshops 2023",
}

_WORDS = {
    "classify": {"does": "classifies", "into": "into", "pipeline": "classification"},
    "segment": {"does": "labels each pixel of", "into": "with one of", "pipeline": "segmentation"},
}
"""How a card speaks of a task."""

_COSTS = """\
| | |
|---|---|
| Parameters | {parameters:.2f} M; {binary_parameters:.2f} M of them are single bits |
| Binary multiply-accumulates an image | {binary_macs:.3g} M |
| Full-precision ones | {float_macs:.3g} M |
| OPs (binary / 64 + full precision) | {ops:.3g} |

"""

_MARKUP = re.compile(r"([\\`*_{}\[\]()#!|~$<>&:@]|(?<=www)\.)")
"""Characters that mean something in Markdown, in HTML or to the pages that show cards."""

_TEXT = """\
# {name}

A binary vision transformer ({paper}) that {does} {channels} images of {height}×{width} pixels
{into} {classes}.

{costs}## Use

```python
import bhvit

model = bhvit.BHViT.from_pretrained({repo!r})  # a torch.nn.Module: float32 (B, {in_chans}, {height}, {width}) -> logits
model.class_names, model.preprocess("picture.jpg")
```

Packed into a file, it runs on any CPU without PyTorch:

```python
bhvit.pack(model, "model.bhv")
bhvit.Session("model.bhv").{task}("picture.jpg")
```

With [transformers](https://huggingface.co/docs/transformers), where bhvit is installed with its extra `transformers`:

```python
import bhvit
from transformers import pipeline

pipeline("image-{pipeline}", model={repo!r})("picture.jpg")
```
"""


def model_card(spec: ModelSpec, class_names: Sequence[str] | None, repo: str, license: str | None) -> str:
    """The text of a card, Markdown with YAML before it.

    `repo` is what its examples load.

    It says nothing that is not known of the model: no accuracy, and a licence only if one is given. Names come from
    others: what is markup in them is escaped.
    """
    return _metadata(license, _WORDS[spec.task]["pipeline"]) + _TEXT.format(
        name=_plain(spec.name),
        paper=_PAPERS[spec.branches],
        height=spec.img_size[0],
        width=spec.img_size[1],
        in_chans=spec.in_chans,
        channels={1: "greyscale", 3: "RGB"}.get(spec.in_chans, f"{spec.in_chans}-channel"),
        classes=_classes(spec.num_classes, class_names),
        costs="" if spec.registered else _costs(spec),  # nothing counts modules of others
        repo=repo,
        task=spec.task,
        **_WORDS[spec.task],
    )


def _costs(spec: ModelSpec) -> str:
    whole = total(op_costs(spec))
    return _COSTS.format(
        parameters=whole.parameters / 1e6,
        binary_parameters=whole.binary_parameters / 1e6,
        binary_macs=whole.binary_macs / 1e6,
        float_macs=whole.float_macs / 1e6,
        ops=whole.ops,
    )


def _metadata(license: str | None, pipeline: str) -> str:
    lines = ["library_name: bhvit", f"pipeline_tag: image-{pipeline}", "tags:"]
    lines += [f"- image-{pipeline}", "- binary-neural-network", "- vision-transformer", "- bhvit"]
    if license:
        lines.append(f"license: {license if re.fullmatch('[A-Za-z][A-Za-z0-9.-]*', license) else json.dumps(license)}")
    return "\n".join(["---", *lines, "---", ""])


def _classes(count: int, names: Sequence[str] | None) -> str:
    if not names:
        return counted(count, "class")
    shown = _plain(listed(names[:_SHOWN]))
    return f"{counted(count, 'class')} ({shown}{', …' if count > _SHOWN else ''})"


def _plain(name: str) -> str:
    """A name as Markdown that shows its letters and nothing else, in one line."""
    line = printable(" ".join(name.split()))
    return _MARKUP.sub(lambda found: html.escape(found[1]) if found[1] in "<>&" else f"\\{found[1]}", line)
