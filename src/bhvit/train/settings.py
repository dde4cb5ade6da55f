"""The settings of training, grouped by the part that reads them.

`TrainConfig` has them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ..spec.model import Task

Augment = Literal["none", "shift", "resized-crop", "scale-crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Schedule = Literal["cosine", "tanh", "step", "multistep", "poly", "constant"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that is trained."""

    model: str
    """A name from `list_models()`."""
    task: Task = "classify"
    """classify, or segment: images with masks, and a decoder that labels each pixel."""
    img_size: tuple[int, int] | None = None
    """Height and width in pixels; None takes the model's usual size."""
    channels: int = 3
    """1 trains on greyscale, 3 on RGB."""
    patch: int = 4
    """Edge of the stem's patches in pixels."""
    window: tuple[int, int] | None = None
    """Attention window in tokens; None chooses one that fits."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block."""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Overrides of the model's spec by dotted name, see `bhvit.spec.overrides`. Where settings are given by name
    (recipes, the command line, `from_dict`) they stand next to the other settings: "attention", "stages.0.mixer"."""

    def model_settings(self) -> dict[str, Any]:
        """Return the arguments of `models.model_spec`."""
        return {
            "img_size": self.img_size,
            "in_chans": self.channels,
            "patch": self.patch,
            "task": self.task,
            "window": self.window,
            **self.overrides,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Source and preprocessing of images."""

    data: str
    """What to train on: digits, cifar10, cifar100, a .zip, .tar or .parquet file, or a folder. A folder holds class
    folders (cat/1.jpg, dog/1.jpg), splits with class folders (train/cat/1.jpg, val/cat/2.jpg, test/…; any case),
    parquet files, or WebDataset shards."""
    test_fraction: float | None = None
    """Share of the training images held out for validation where the data has no validation split; None: 0.2, or 0.1 if
    it has a test split."""
    classes: str | None = None
    """File of class names, a line each, for parquet labels without names and for shards."""
    strict: bool = False
    """Refuse damaged images instead of skipping them."""
    crop: float = 1.0
    """Fraction of the resized image that evaluation's centre crop keeps (ImageNet: 0.875)."""
    interpolation: Interpolation = "bicubic"
    """How images are resized."""
    draft: float = 0.0
    """Decode JPEG files at a half, quarter or eighth of their size where that is still so many times the size they are
    resized to (1: fastest; 2: hardly another pixel); 0: all pixels. Kept in the model's preprocessing, so that
    evaluation and running do the same; much faster for photographs of megapixels."""
    ignore: int | None = None
    """With `task=segment`: a label of masks that counts for nothing, next to 255."""
    foreground: tuple[str, ...] = ()
    """With `task=segment`: names of classes that become one class, next to one of all other pixels."""
    include_validation: bool = False
    """With `task=segment`: train on the validation images too, for a final run with chosen settings. Validation then
    says nothing about other images, and last.safetensors is the model to take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate of each step."""

    epochs: int = 100
    """Passes over the training images."""
    lr: float = 1e-3
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of `cosine`, `tanh` and `poly`."""
    patience: int = 0
    """Stop early after this many epochs without a better validation accuracy; 0 trains all epochs."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from 0 to its peak."""
    sched: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: cosine or tanh to `min_lr`, step (times `decay_rate` every
    `decay_epochs`), multistep (at `decay_milestones`), poly (of power `decay_rate`), or constant; timm's schedules."""
    decay_epochs: float = 30.0
    """With `sched=step`: epochs, after the warm-up, between decays of the learning rate."""
    decay_milestones: tuple[int, ...] = ()
    """With `sched=multistep`: epochs, after the warm-up, at which the learning rate decays."""
    decay_rate: float = 0.1
    """Factor of each decay of `step` and `multistep`; power of `poly`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(ScheduleSettings):
    """The optimiser."""

    opt: str = "adamw"
    """Optimiser: a name of `timm.optim.list_optimizers()`, such as adamw, sgd, lamb or lion."""
    momentum: float = 0.9
    """Momentum of optimisers that have one number for it, such as sgd."""
    opt_betas: tuple[float, ...] = ()
    """Decays of an optimiser's moving averages, such as [0.9, 0.95] of adamw; empty: its own."""
    opt_eps: float | None = None
    """What an optimiser adds to its denominators; None: its own."""
    weight_decay: float = 0.0
    """Weight decay of matrices and convolutions; vectors (norms, scales, biases) have none."""
    clip_grad: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before it, for models that were trained before (BEiT,
    Bao et al., ICLR 2022; timm's groups); 1: the same rate everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmaSettings:
    """The moving average of the weights."""

    ema: float = 0.0
    """Decay a step of the weights' moving average, which is then the model that is evaluated and saved; it rises to
    that from 0 as timm's `ModelEmaV3` does. 0 keeps no average."""
    ema_batches: int = 20
    """With `ema`: training batches over which the batch norms' statistics of the averaged model are measured after an
    epoch. Averaged weights have other signs, so that averaged statistics would not be theirs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Random changes of training images."""

    augment: Augment = "shift"
    """none; shift: the whole image moved, turned and scaled a little (small images); resized-crop:
    a random part of the image, resized (photographs); scale-crop: images and masks scaled together by up to
    1 + `zoom`, either way, a random part of them kept (segmentation)."""
    shift: float = 0.125
    """Largest move of `shift`, as a fraction of the edge, along H and along W."""
    rotate: float = 0.0
    """Largest turn of `shift` in degrees, either way."""
    zoom: float = 0.0
    """Largest change of scale: of `shift`, 0.1 is 0.9 to 1.1 times; of `scale-crop`, 0.5 is 1/1.5 to 1.5 times."""
    colour: float = 0.0
    """Largest change of brightness, contrast and saturation of `scale-crop`: 0.3 is 0.7 to 1.3 times."""
    scale_min: float = 0.08
    """Smallest part of the area that `resized-crop` takes."""
    flip: bool = True
    """Mirror half of the images left to right. Not for text or digits."""
    rand_augment: int = 0
    """Magnitude, 1 to 30, of two operations an image that RandAugment chooses (Cubuk et al., NeurIPS 2020;
    torchvision's); 0: none."""
    erase: float = 0.0
    """Probability of random erasing (Zhong et al., AAAI 2020): a rectangle of the image becomes its mean colour."""
    repeats: int = 1
    """Repeated augmentation (Hoffer et al., CVPR 2020): how often each image comes in a batch, each augmented. An epoch
    has as many batches as ever, so fewer different images."""
    mixup: float = 0.0
    """Mixup (Zhang et al., ICLR 2018; timm's): both parameters of the beta distribution of the ratio. 0: none. Of
    `mixup` and `cutmix` together, each batch takes one at random."""
    cutmix: float = 0.0
    """CutMix (Yun et al., ICCV 2019; timm's), likewise."""

    @property
    def mixing(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSettings(AugmentSettings):
    """Batches of training images."""

    batch_size: int = 128
    """Images of an optimiser step, over all processes; incomplete last batches are dropped."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, for less memory: gradients are summed, batch
    statistics are those of each part."""
    seed: int = 0
    """Of initial weights, order of images and augmentation."""
    workers: int = -1
    """Processes that decode images where these do not fit in memory; -1: one a core."""
    cache_mb: int = 2048
    """Decoded images are kept in memory if they need no more than this many MiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The terms of the loss."""

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    balance: float = 0.0
    """How far rare classes count more in the labels' part of the loss: an image of a class with n images, or a pixel of
    one with n pixels, has a weight proportional to n^-balance. 0: all images count alike; 1: all classes do."""
    distillation: float = 0.9
    """With a teacher: the weight of its soft outputs in the loss."""
    label_weight: float | None = None
    """With a teacher: the weight of the labels; None gives them what `distillation` leaves of 1."""
    regularisation: float = 0.0
    """Weight of the regularisation loss, mean ||w| - 1| of the latent binary weights (BHViT, Gao et al., CVPR 2025)."""
    dice: float = 0.0
    """With `task=segment`: weight of the dice loss, 1 - 2 overlap / sum, a class of the batch."""
    lovasz: float = 0.0
    """With `task=segment`: weight of the Lovász-softmax loss (Berman et al., CVPR 2018), over each batch."""
    dampening: float = 0.0
    """Weight of oscillation dampening (Nagel et al., ICML 2022): the sum over latent weights of the squared distance
    to their binary value, for those inside the grid of two values; it rises along a cosine from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The teacher, whose outputs are learned from."""

    teacher: str | None = None
    """Learn from the soft outputs of this model: a checkpoint (.safetensors) or a timm name; or a file of outputs
    (.npz) that any network computed (`bhvit.train.teacher_outputs.read_outputs` says what it holds)."""
    teacher_file: str | None = None
    """Weights of a timm teacher on the disk, instead of downloading them."""
    teacher_outputs: str | None = None
    """Folder to keep the teacher's outputs in, computed once for each image as it is and read by later runs with the
    same teacher and images: for augmentation `none` or `shift`, without mixing, erasing or RandAugment."""


def is_outputs_file(teacher: str) -> bool:
    """Whether a teacher's name is a file of outputs, not a model."""
    return teacher.endswith(".npz")
