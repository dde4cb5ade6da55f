"""Networks of others for 32x32 images: ResNet-20, a binary ResNet-20, and timm's with finer strides."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bhvit.models.quantizers import binarize_weight, sign

CLASSES = 10


class BinaryConv(nn.Module):
    """A 3x3 convolution of signs by scaled signs, with a learned threshold a channel.

    After ReActNet (Liu et al., ECCV 2020). The gradients are those of Bi-Real Net and of a straight-through estimator,
    as in bhvit.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(inputs, 1, 1))
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        nn.init.kaiming_normal_(self.weight)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(sign(x + self.threshold), binarize_weight(self.weight, centred=False), None, self.stride, 1)


class ShiftedPReLU(nn.Module):
    """RPReLU of planes (B, C, H, W): a PReLU moved before and after, a channel each (ReActNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.after = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.prelu(x - self.before)
        return moved + self.after


def _shortcut(x: Tensor, channels: int) -> Tensor:
    """Half the grid and twice the channels, without weights, where a block has them."""
    if x.shape[1] == channels:
        return x
    x = F.avg_pool2d(x, 2)
    return torch.cat([x, x], dim=1)


class BinaryBlock(nn.Module):
    """A binary convolution with a shortcut of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = BinaryConv(inputs, outputs, 1 if inputs == outputs else 2)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = ShiftedPReLU(outputs)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.activation(self.norm(self.conv(x)) + _shortcut(x, self.outputs))
        return found


class Block(nn.Module):
    """The basic block of ResNet (He et al., CVPR 2016), with a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + _shortcut(x, self.outputs))


class ResNet20(nn.Module):
    """Three stages of six 3x3 convolutions, 16, 32 and 64 channels; `binary` ones each have their own shortcut."""

    def __init__(self, binary: bool = False) -> None:
        super().__init__()
        kind, blocks = (BinaryBlock, 6) if binary else (Block, 3)
        widths = [16] * (blocks + 1) + [32] * blocks + [64] * blocks
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(kind(i, o) for i, o in zip(widths, widths[1:])))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        logits: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return logits


def resnet18() -> nn.Module:
    """ResNet-18 with the stem that small images usually get: 3x3, no stride, no pooling."""
    model: nn.Module = timm.create_model("resnet18", num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def finer(name: str, count: int) -> nn.Module:
    """timm's network with the first `count` of its strided convolutions taking every pixel."""
    model: nn.Module = timm.create_model(name, num_classes=CLASSES)
    strided = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    for part in strided[:count]:
        part.stride = (1, 1)
    return model


def operations(model: nn.Module, size: tuple[int, int]) -> float:
    """OPs of an image: binary multiply-accumulates / 64 + others."""
    from torch.utils.flop_counter import FlopCounterMode

    binary = 0

    def count(part: nn.Module, images: tuple[Tensor], found: Tensor) -> None:
        nonlocal binary
        binary += found[0].numel() * 9 * images[0].shape[1]

    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, BinaryConv)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / 2 - binary + binary / 64
