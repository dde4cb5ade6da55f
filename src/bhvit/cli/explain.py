"""`bhvit explain`: what in a picture does an answer depend on?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import bundled
from ..errors import UserError
from ..files import check_folder
from .console import (
    PreparedPictures,
    Progress,
    Subparsers,
    add_engine,
    add_model,
    check_outside,
    checkpoint_file,
    command,
    split_model,
)

if TYPE_CHECKING:
    from ..bits import Floats
    from ..data.inputs import Picture
    from ..runtime import Session
    from ..runtime.insight import Explanation

METHODS = ("occlusion", "attention", "layercam")
EDGE = 256
"""Longer edge of a drawn picture in pixels, at least."""

_DESCRIPTION = """\
Draw for each picture what its answer depends on: the picture as the model sees it, and next to it the same with a
map over it. `occlusion` hides one part after the other and runs the model: parts without which the answer gets less
likely are warm. `attention` adds up the levels that each token receives, over heads and layers; it is not about one
class. `layercam` follows gradients in PyTorch and needs --checkpoint. By deletion and insertion scores occlusion is
the most faithful (benchmarks/explain), so it is the default."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "explain",
        "draw what an answer depends on",
        _DESCRIPTION,
        "bhvit explain photos.bhv cat.jpg --out why\n"
        "bhvit explain photos.bhv cat.jpg --out why --name dog\n"
        "bhvit explain photos.bhv holiday/ --out why --method layercam --checkpoint runs/photos/best.safetensors",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="[MODEL] PICTURE", help="a packed model, and pictures as for `bhvit classify`"
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, made if absent")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="see above (default occlusion)")
    parser.add_argument("--name", metavar="CLASS", help="the class that maps are about (default: the likeliest)")
    parser.add_argument("--checkpoint", type=checkpoint_file, metavar="FILE", help="for layercam: the model in PyTorch")
    parser.add_argument("--stage", type=int, default=0, metavar="N", help="for layercam: stage to look at (default 0)")
    parser.add_argument("--force", action="store_true", help="replace drawings that are in the folder")
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged picture")
    add_engine(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain and draw; 0, or 2 if a picture could not be read. Raises UserError."""
    from ..data.inputs import open_inputs
    from ..runtime import Session

    model, sources = split_model(args, "explain")
    if (args.method == "layercam") != (args.checkpoint is not None):
        raise UserError("--method layercam and --checkpoint FILE go together")
    if args.checkpoint is not None:
        bundled.check_name(args.checkpoint, ".safetensors")
    check_folder(args.out)
    check_outside(args.out, sources)
    with open_inputs(list(sources)) as inputs:
        session = Session(model, threads=args.threads, isa=args.isa, max_memory=args.max_memory)
        explain = _layercam(session, args) if args.method == "layercam" else _method(session, args)
        drawn, progress = _Names(args.out, args.force), Progress("explaining")
        needed = session.preprocessing.needed
        pictures = PreparedPictures(inputs, session.preprocess, progress, strict=args.strict, needed=needed)
        for picture, image in pictures:
            found = explain(image)
            path = drawn.write(picture, _drawing(session, image, found))
            progress.clear()
            print(f"{path}: {found.name} {found.probability:.1%}")
    return 2 if pictures.failed else 0


def _method(session: Session, args: argparse.Namespace) -> Callable[[Floats], Explanation]:
    return lambda image: session.explain_prepared(image, args.method, name=args.name)


def _layercam(session: Session, args: argparse.Namespace) -> Callable[[Floats], Explanation]:
    import torch

    from ..models import load_checkpoint
    from ..models.layercam import layercam
    from ..runtime.insight import Explanation

    model = load_checkpoint(args.checkpoint)
    if model.spec.img_size != session.spec.img_size or model.spec.num_classes != session.spec.num_classes:
        raise UserError(f"{args.checkpoint} has other images or classes than the packed model")

    def explain(image: Floats) -> Explanation:
        chances = session.probabilities(session(image))[0]
        label = int(chances.argmax()) if args.name is None else session.label(args.name)
        heat: Floats = layercam(model, torch.from_numpy(image), torch.tensor([label]), args.stage)[0].numpy()
        return Explanation(session.class_names[label], float(chances[label]), heat, "layercam")

    return explain


class _Names:
    """Files of a folder, one a picture, each with a name of its own."""

    def __init__(self, folder: Path, force: bool) -> None:
        self._folder, self._force = folder, force
        self._used: set[str] = set()

    def write(self, picture: Picture, drawing: npt.NDArray[np.uint8]) -> Path:
        """Write a drawing as a PNG named after its picture. Raises UserError if the file is there already."""
        import io

        from PIL import Image

        from ..files import check_absent, write_atomically

        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(picture.name).stem)[:80] or "picture"
        name, number = stem, 1
        while name in self._used:
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        path = self._folder / f"{name}.png"
        check_absent(path, self._force)
        buffer = io.BytesIO()
        Image.fromarray(drawing).save(buffer, "PNG")
        write_atomically(path, buffer.getvalue())
        return path


def _drawing(session: Session, image: Floats, found: Explanation) -> npt.NDArray[np.uint8]:
    """The model's picture (1, C, H, W) and next to it the map over its shades: uint8 (H', W', 3)."""
    from PIL import Image

    mean, std = (np.array(values, np.float32)[:, None, None] for values in session.pixel_scale)
    planes = np.clip((image[0] * std + mean) * 255, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    colours = planes if planes.shape[2] == 3 else np.repeat(planes.mean(axis=2, keepdims=True), 3, axis=2)
    factor = max(1, EDGE // max(colours.shape[:2]))
    size = (colours.shape[1] * factor, colours.shape[0] * factor)
    left = np.asarray(Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.NEAREST), np.float32)
    heat = np.asarray(Image.fromarray(found.heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    heat = np.clip(heat, 0, 1)[..., None]
    # From blue through yellow to red, as strong as the map, over the picture's shades.
    ramp = np.concatenate([np.minimum(1, 2 * heat), 1 - np.abs(2 * heat - 1), np.maximum(0, 1 - 2 * heat)], axis=2)
    shades = np.repeat(left.mean(axis=2, keepdims=True), 3, axis=2)
    right = shades * (1 - 0.6 * heat) + 255 * ramp * 0.6 * heat
    return np.concatenate([left, right], axis=1).astype(np.uint8)
