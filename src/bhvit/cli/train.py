"""`bhvit train`: train a model on images of your own."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted
from ..files import check_folder
from .console import Subparsers, add_json, add_set, command, print_json, processes
from .launch import is_child, launch

if TYPE_CHECKING:
    from ..data.segmentation_metrics import SegmentationMetrics
    from ..train import TrainConfig
    from ..train.loop import Result

DEFAULT_MODEL = "bhvit_nano"

_EXAMPLE = """\
bhvit train --data photos
bhvit train --data digits --model bhvit_nano --out runs/digits
bhvit train --data photos --model bhvit_tiny --out runs/photos --img-size 224 --augment resized-crop
bhvit train --data cifar10 --out runs/cifar --recipe small --set epochs=30
bhvit train --data cifar10 --out runs/gsb --set attention=gsb --set stages.0.mixer=pooling
bhvit train --data photos --out runs/mine --recipe finetune --init runs/cifar/best.safetensors
bhvit train --data cifar10 --out runs/two --processes 2
bhvit train --out runs/cifar --resume"""

# option, help, type; the destination is the setting of the same name
_SETTINGS: tuple[tuple[str, str, type], ...] = (
    ("epochs", "passes over the training images", int),
    ("batch-size", "images a step", int),
    ("lr", "peak learning rate", float),
    ("img-size", "pixels: 224, or HEIGHTxWIDTH", str),
    ("augment", "none, shift (small images) or resized-crop (photographs)", str),
    ("teacher", "learn from this model's outputs: a .safetensors checkpoint or a timm name", str),
    ("init", "start from the weights of this checkpoint", str),
    ("device", "cpu, cuda, cuda:1, …; default: a GPU if there is one", str),
    ("seed", "of weights, order and augmentation", int),
    ("threads", "CPU threads; default: PyTorch's choice", int),
    ("workers", "processes that decode images; default: one a core", int),
    ("classes", "file of class names, a line each, for parquet labels without names", str),
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "train",
        "train a model on your own images",
        "Train a model. The run's folder gets last.safetensors, best.safetensors and log.jsonl.",
        _EXAMPLE,
    )
    parser.add_argument(
        "--data", help="digits, cifar10, cifar100, a folder of class folders, a parquet file or folder, a .zip or .tar"
    )
    parser.add_argument("--task", choices=("classify", "segment"), help="segment: images with masks (default classify)")
    parser.add_argument("--ignore", type=int, metavar="N", help="label of masks that counts for nothing, next to 255")
    parser.add_argument("--model", help=f"default: {DEFAULT_MODEL}")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run; default: runs/ and the name of the data")
    parser.add_argument(
        "--recipe", metavar="NAME", help="settings by name, or a .toml file; default: chosen by the images, and said"
    )
    for option, text, kind in _SETTINGS:
        parser.add_argument(f"--{option}", type=kind, metavar="VALUE", help=text)
    parser.add_argument(
        "--processes",
        type=processes,
        metavar="N",
        help="train in N processes on this machine: a GPU each, or CPU cores",
    )
    add_set(parser, "any setting of a recipe, or an override of the model: norm=layer, stages.0.mixer=pooling")
    parser.add_argument("--strict", action="store_true", default=None, help="refuse damaged images, do not skip them")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its newest checkpoint")
    parser.add_argument("--force", action="store_true", help="replace a run that is in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; 0, 130 after Ctrl-C, 143 after SIGTERM. Raises UserError."""
    if args.out is not None:
        check_folder(args.out)
    if args.data and not args.resume:
        _check_data(args)
    from ..data.segmentation_metrics import SegmentationMetrics
    from ..train import train
    from ..train.distributed import check_batches
    from ..train.malloc import keep_memory
    from ..train.run_folder import merit

    config = _fitting(_config(args), args)
    if args.processes and args.processes > 1 and not is_child():
        check_batches(config, args.processes)
        return launch(args.processes, args.words)
    keep_memory()
    try:
        result = train(config, resume=args.resume, force=args.force, quiet=args.quiet)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        what = "interrupted" if number == signal.SIGINT else f"ended by {error}"
        hint = f"`bhvit train --out {config.out} --resume` continues from the newest checkpoint"
        print(f"\nbhvit: {what}; {hint}", file=sys.stderr)
        return 128 + int(number)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one tells
        return 0
    if args.json:
        summary = {"last": str(result.last), "best": str(result.best), "epochs": list(result.log)}
        print_json({**summary, "validation": result.metrics.to_dict()})
    else:
        phase = [line for line in result.log if line.get("phase") == result.log[-1].get("phase")]
        best = max(phase, key=merit)
        if isinstance(result.metrics, SegmentationMetrics):
            _print_masks(best, result, result.metrics, config.include_validation)
            return 0
        print(f"validation accuracy on {counted(len(result.metrics.labels), 'image')}:")
        print(f"  {result.metrics.top1:.2%} with the last epoch's weights, {result.last}")
        print(f"  {best['val_top1']:.2%} with those of epoch {best['epoch']}, chosen on these images, {result.best}")
        print(f"next: bhvit pack {result.best} model.bhv")
    return 0


def _print_masks(
    best: Mapping[str, Any], result: Result, metrics: SegmentationMetrics, include_validation: bool
) -> None:
    if include_validation:  # then no epoch can be chosen on them
        print(f"mIoU on {counted(metrics.images, 'validation image')}, which it was trained on, too:")
        print(f"  {metrics.miou:.2%} with the last epoch's weights, {result.last}")
        print(f"next: bhvit pack {result.last} model.bhv")
        return
    print(f"validation mIoU on {counted(metrics.images, 'image')}:")
    print(f"  {metrics.miou:.2%} with the last epoch's weights, {result.last}")
    print(f"  {best['val_miou']:.2%} with those of epoch {best['epoch']}, chosen on these images, {result.best}")
    print(f"next: bhvit pack {result.best} model.bhv")


def _config(args: argparse.Namespace) -> TrainConfig:
    from ..train.auto import applies, names_model, output_folder, without_model
    from ..train.config import TrainConfig, parse_setting
    from ..train.recipe_files import default_recipe, load_recipe, merged
    from ..train.run_folder import RunFolder

    names = [
        "data",
        "task",
        "ignore",
        "model",
        "out",
        "strict",
        *(option.replace("-", "_") for option, _, _ in _SETTINGS),
    ]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given |= dict(parse_setting(text) for text in args.set)
    if args.resume:
        if args.out is None and args.data is None:
            raise UserError("--out is missing: it names the folder of the run to continue")
        args.out = args.out or output_folder(args.data)
        if args.force:
            raise UserError("--resume continues a run and --force replaces it: give one of them")
        saved = RunFolder(args.out).saved_config().to_dict()
        recipe = load_recipe(args.recipe) if args.recipe else {}
        return TrainConfig.from_dict({**saved, **merged(recipe, given)})
    if "data" not in given:
        raise UserError("--data is missing: it names the images to train on (only --resume knows them)")
    given.setdefault("out", output_folder(given["data"]))
    if args.recipe is None and given.get("task", "classify") == "classify" and applies(given):
        return _by_images(given, quiet=not _tells(args))
    own_model = "init" not in given and names_model(given)  # from scratch, for bundled weights do not fit it
    recipe = load_recipe(args.recipe or default_recipe(given["data"], given.get("task", "classify"), own_model))
    if "init" in given and "init" in recipe:  # the recipe's model is that of its own `init`
        start = _settings_of(given["init"])
        recipe = without_model(recipe, start)
        if "model" not in given:
            recipe = {**start, **recipe}
    return TrainConfig.from_dict({**_of_checkpoint(recipe, given), **merged(recipe, given)})


def _tells(args: argparse.Namespace) -> bool:
    """Whether this process says what was chosen: of several, the first, or the one that starts them."""
    return not args.quiet and not (is_child() and (args.processes is not None or os.environ["RANK"] != "0"))


def _fitting(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """The settings with a batch of no more images than there are, unless a batch size or a recipe was named."""
    from ..train.auto import fitting_batch

    named = args.batch_size is not None or any(text.partition("=")[0].strip() == "batch_size" for text in args.set)
    if named or args.resume or args.recipe is not None:
        return config
    smaller = fitting_batch(config.to_dict())
    if smaller is None:
        return config
    if _tells(args):
        print(f"batches of {smaller}, as there are no more training images", file=sys.stderr)
    return dataclasses.replace(config, batch_size=smaller)


def _by_images(given: Mapping[str, Any], quiet: bool) -> TrainConfig:
    """Settings chosen by the images, which `given` replaces; said in one line."""
    from ..data import open_dataset
    from ..train.auto import chosen, sentence
    from ..train.config import TrainConfig
    from ..train.recipe_files import merged

    dataset = open_dataset(
        given["data"],
        "train",
        classes_file=given.get("classes"),
        strict=given.get("strict", False),
        test_fraction=given.get("test_fraction"),
        warn=lambda line: None,  # training says it
    )
    config = TrainConfig.from_dict(merged(chosen(dataset, given.get("init")), given))
    if not quiet:
        print(sentence(config.to_dict(), dataset), file=sys.stderr)
    return config


def _check_data(args: argparse.Namespace) -> None:
    """Raise UserError for images that are absent or cannot be trained on.

    This is before PyTorch takes seconds to load; files with images in them are looked into later.
    """
    from ..data.masks import splits_of as splits_of_masks
    from ..data.sources import BUILT_IN, find

    path = Path(args.data)
    packed = path.is_dir() and (any(path.rglob("*.parquet")) or any(path.glob("*.tar")))
    unknown = args.task is None and (args.recipe or any(text.startswith("task") for text in args.set))
    if packed or path.suffix.lower() in (".parquet", ".tar", ".zip") or (unknown and path.is_dir()):
        return
    if args.task == "segment":
        splits_of_masks(args.data)
    elif args.data not in BUILT_IN:
        find(args.data, "train", None)


def _of_checkpoint(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model where none is named: the checkpoint's, or the usual one."""
    init = given.get("init", recipe.get("init"))
    if init is None or "model" in recipe or "model" in given:
        return {"model": DEFAULT_MODEL}
    return _settings_of(init)


def _settings_of(checkpoint: str) -> dict[str, Any]:
    from ..train.warm_start import settings_of

    return settings_of(checkpoint)
