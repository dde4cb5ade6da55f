"""`ModelSpec`: the one description of an architecture that training, packing and running read.

A spec is frozen, validated when made, and round-trips through JSON. Shapes are written (H, W).
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from typing import Any, Literal

from ..errors import UserError, require
from .limits import LIMITS, MAX_OPS
from .mixers import MIXER_RULES, Mixer, readers
from .registry import REGISTRIES, convert_field

Downsampling = Literal["binary", "float"]
Norm = Literal["batch", "layer"]
AttentionQuantizer = Literal["decomposition", "gsb", "one_bit"]
Branches = Literal["shift", "pool"]
StemActivation = Literal["gelu", "none"]
Activation = Literal["rprelu"]
WeightQuantizer = Literal["sign"]
ActivationQuantizer = Literal["sign"]
Task = Literal["classify", "segment"]

DILATIONS = (1, 3, 5)
"""Dilations of the three grouped 3x3 convolutions of the token mixer (BHViT, Gao et al., CVPR 2025)."""
ATTENTION_LEVELS = 3
"""Highest level of the decomposed attention matrix: levels 0..3, two bit planes."""
NOMINAL_WINDOW = 7
"""The published window edge; other grids take the divisor that is nearest to it."""
MAX_GRID_FLOATS = 1 << 26
"""Floats in one grid of tokens (H * W * C): 1024 x 1024 tokens of 64 channels."""
MAX_LABELS = 255
"""Classes of a segmentation: labels are bytes, and 255 stands for pixels without a label."""
MAX_BLOCKS = MAX_OPS // 4
"""Blocks of a whole network. Each is two ops of a packed program, which holds other ops, too."""
MAX_DECODER_BLOCKS = 16
"""Blocks of a segmentation's decoder."""
_OMITTED_AT_DEFAULT = ("activation", "stem_kernel", "weight_quantizer", "activation_quantizer")
DECODER_FIELDS = ("task", "decoder_channels", "decoder_blocks", "decoder_hidden")
"""Fields of `ModelSpec` that only a segmentation has in files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage: `depth` blocks on a grid of tokens of `channels` channels."""

    depth: int
    """Blocks of the stage."""
    channels: int
    """Channels of each token: a multiple of 64 with the mixer "conv", of 32 without, and of the stage before."""
    hidden: int
    """Channels between the two layers of the MLP; a multiple of `channels`."""
    mixer: Mixer
    """Token mixer. "conv": grouped dilated convolutions (BHViT, first stages); "attention": window attention with
    global tokens (BHViT, last stages); "pooled_attention": attention to keys and values of a pooled grid (BinaryViT);
    "pooling": the mean of 3x3 tokens (MetaFormer, Yu et al., CVPR 2022), for ablations; or a registered name
    (`bhvit.models.register_mixer`)."""
    heads: int = 1
    """Attention heads; a divisor of channels / 32. Published models have 64 channels a head."""
    window: tuple[int, int] | None = None
    """Window of "attention" in tokens; None chooses the divisors of the grid nearest to 7, the published edge."""
    key_pool: int = 1
    """Edge and stride, in tokens, of the pooling before keys and values of "pooled_attention"."""
    weight_bits: int = 1
    """1, or 32 for full-precision weights in this stage and in the downsampling that leads into it."""
    activation_bits: int = 1
    """1, or 32 for full-precision activations, likewise; the attention matrix is then not quantised."""

    def __post_init__(self) -> None:
        require(1 <= self.depth <= MAX_BLOCKS, f"depth must be 1 to {MAX_BLOCKS}, not {self.depth}")
        for name in ("channels", "hidden", "heads", "key_pool"):
            require(
                getattr(self, name) <= LIMITS[name], f"{name} must be at most {LIMITS[name]}, not {getattr(self, name)}"
            )
        require(
            self.channels >= 32 and self.channels % 32 == 0,
            f"channels must be a positive multiple of 32, not {self.channels}",
        )
        require(
            self.hidden >= self.channels and self.hidden % self.channels == 0,
            f"hidden must be a multiple of channels ({self.channels}), not {self.hidden}",
        )
        require(
            self.channels % self.expansion == 0,
            f"hidden/channels ({self.expansion}) must divide channels ({self.channels})",
        )
        _one_of("mixer", self.mixer, tuple(MIXER_RULES))
        _one_of("weight_bits", self.weight_bits, (1, 32))
        _one_of("activation_bits", self.activation_bits, (1, 32))
        require(self.key_pool >= 1, f"key_pool must be at least 1, not {self.key_pool}")
        if self.window is not None:
            require(
                len(self.window) == 2 and all(1 <= edge <= LIMITS["window_h"] for edge in self.window),
                f"window edges must be 1 to {LIMITS['window_h']} tokens, not {self.window}",
            )
        if (rules := MIXER_RULES.get(self.mixer)) is None:
            return  # a registered mixer: what makes it says what it needs
        require(
            self.channels % rules.channels_multiple == 0,
            f"channels of a stage with the {self.mixer} mixer must be a multiple of {rules.channels_multiple}, "
            f"not {self.channels}",
        )
        if "heads" in rules.reads:
            require(
                self.heads >= 1 and self.channels % (32 * self.heads) == 0,
                f"channels per head must be a multiple of 32: {self.channels} channels, {self.heads} heads",
            )

    @property
    def expansion(self) -> int:
        """r = hidden / channels."""
        return self.hidden // self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network: stem, stages with downsampling between them, head."""

    name: str
    img_size: tuple[int, int] = (224, 224)
    """Input height and width in pixels."""
    in_chans: int = 3
    num_classes: int = 1000
    patch: int = 4
    """Stride of the stem's convolution in pixels: the edge of a token of the first stage."""
    stem_kernel: int | None = None
    """Edge of the stem's convolution in pixels, None for `patch`. A larger one is `patch` plus an even number: it sees
    half as many pixels more on each side of a patch, and zeros outside the image."""
    stages: tuple[StageSpec, ...]
    downsample: Downsampling = "binary"
    """Downsampling layers; "float" is the published † variant."""
    shifts: tuple[int, ...] = (3, 5)
    """Widths of the branches next to the MLP: each w adds the means over w tokens along H and along W,
    and with "shift" branches the channel shift by w // 2."""
    branches: Branches = "shift"
    """"shift": cyclic means and channel shifts (BHViT); "pool": means with zeros outside (BinaryViT)."""
    norm: Norm = "batch"
    """Batch normalisation, or layer normalisation over the channels of each token."""
    attention: AttentionQuantizer = "decomposition"
    """Quantiser of the attention matrix. "decomposition": levels 0 to 3, sums of bit planes (BHViT); "gsb": group
    superposition (BHViT's variant); "one_bit": levels 0 and 1 (BinaryViT); or a registered name
    (`bhvit.models.register_attention_quantizer`)."""
    activation: Activation = "rprelu"
    """Activation after each binary layer: RPReLU (ReActNet, Liu et al., ECCV 2020), or a registered name
    (`bhvit.models.register_activation`)."""
    weight_quantizer: WeightQuantizer = "sign"
    """Quantiser of weights of one bit. "sign": each channel's mean magnitude times the signs (BHViT); or a registered
    name (`bhvit.models.register_weight_quantizer`)."""
    activation_quantizer: ActivationQuantizer = "sign"
    """Quantiser of activations of one bit. "sign": with the gradient of Bi-Real Net; or a registered name
    (`bhvit.models.register_activation_quantizer`)."""
    stem_activation: StemActivation = "gelu"
    """Activation after the stem's norm; BinaryViT has none."""
    centre_conv_weights: bool = True
    """Subtract each channel's mean from latent weights of convolutions before their sign, as linear layers always do;
    BinaryViT does not."""
    recu: bool = False
    """Divide centred latent weights of linear layers by their deviation before their gradient's window
    (ReCU, Xu et al., ICCV 2021); forward values are unchanged."""
    float_bits: int = 32
    """8 rounds position maps and the classifier's weights to 8 bits a channel in every forward pass, gradients
    straight through, so that a packed file holds them so without any loss."""
    task: Task = "classify"
    """"classify": one vector of logits an image; "segment": logits for each pixel, by a decoder over the grids of all
    stages."""
    decoder_channels: int = 64
    """Channels of a segmentation's decoder: a multiple of 64, and of each stage's channels a multiple or divisor."""
    decoder_blocks: int = 1
    """Blocks of the decoder at the finest grid, with the mixer "conv"; 0 for none."""
    decoder_hidden: int = 128
    """Channels between the two layers of those blocks' MLPs."""

    def __post_init__(self) -> None:
        require(len(self.stages) >= 1, "a model needs at least one stage")
        require(
            1 <= self.in_chans <= LIMITS["in_chans"],
            f"in_chans must be 1 to {LIMITS['in_chans']}, not {self.in_chans}",
        )
        blocks = sum(stage.depth for stage in self.stages)
        require(blocks <= MAX_BLOCKS, f"a model has at most {MAX_BLOCKS} blocks, not {blocks}")
        require(
            1 <= self.num_classes <= LIMITS["classes"],
            f"num_classes must be 1 to {LIMITS['classes']}, not {self.num_classes}",
        )
        require(1 <= self.patch <= LIMITS["patch"], f"patch must be 1 to {LIMITS['patch']} pixels, not {self.patch}")
        require(
            self.patch <= self.kernel <= LIMITS["kernel"] and (self.kernel - self.patch) % 2 == 0,
            f"stem_kernel must be patch ({self.patch}) plus an even number, at most {LIMITS['kernel']}, "
            f"not {self.kernel}",
        )
        for name, kind in (
            ("downsample", Downsampling),
            ("branches", Branches),
            ("norm", Norm),
            ("attention", AttentionQuantizer),
            ("activation", Activation),
            ("weight_quantizer", WeightQuantizer),
            ("activation_quantizer", ActivationQuantizer),
            ("stem_activation", StemActivation),
            ("task", Task),
        ):
            _one_of(name, getattr(self, name), typing.get_args(kind))
        require(
            set(self.shifts) <= {3, 5} and len(set(self.shifts)) == len(self.shifts),
            f"shifts may hold 3 and 5, once each, not {self.shifts}",
        )
        _one_of("float_bits", self.float_bits, (8, 32))
        for edge in self.img_size:
            if edge < self.stride or edge % self.stride:
                raise UserError(
                    f"img_size {self.img_size[0]}x{self.img_size[1]} does not fit {self.name}: both edges must be "
                    f"multiples of {self.stride}; nearest that can work: "
                    + " or ".join(f"{h}x{w}" for h, w in self._nearest_sizes())
                )
        for index, stage in enumerate(self.stages):
            height, width = self.grid(index)
            require(
                height * width * stage.channels <= MAX_GRID_FLOATS
                and height <= LIMITS["height"]
                and width <= LIMITS["width"],
                f"img_size {self.img_size[0]}x{self.img_size[1]} is too large for {self.name}: stage {index} would "
                f"have {height}x{width} tokens; smaller images or a larger patch have fewer",
            )
        for before, after in zip(self.stages, self.stages[1:]):
            require(
                after.channels % before.channels == 0,
                f"channels of a stage must be a multiple of the stage before: {before.channels}, {after.channels}",
            )
        for index, stage in enumerate(self.stages):
            height, width = self.grid(index)
            if stage.mixer in readers("key_pool"):
                require(
                    height % stage.key_pool == 0 and width % stage.key_pool == 0,
                    f"key_pool {stage.key_pool} does not divide the {height}x{width} tokens of stage {index}",
                )
            if stage.mixer in readers("window"):
                window = self.window(index)
                require(
                    height % window[0] == 0 and width % window[1] == 0,
                    f"window {window[0]}x{window[1]} does not divide the {height}x{width} tokens of stage {index}",
                )

        if self.task == "segment":
            self._check_decoder()

    def _check_decoder(self) -> None:
        height, width = self.img_size
        require(
            self.num_classes <= MAX_LABELS, f"a segmentation has at most {MAX_LABELS} classes, not {self.num_classes}"
        )
        require(
            self.num_classes * height * width <= MAX_GRID_FLOATS,
            f"img_size {height}x{width} is too large for logits of {self.num_classes} classes",
        )
        unit = MIXER_RULES["conv"].channels_multiple
        require(
            unit <= self.decoder_channels <= LIMITS["channels"] and self.decoder_channels % unit == 0,
            f"decoder_channels must be a multiple of {unit}, at most {LIMITS['channels']}, not {self.decoder_channels}",
        )
        for index, stage in enumerate(self.stages):
            require(
                stage.channels % self.decoder_channels == 0 or self.decoder_channels % stage.channels == 0,
                f"decoder_channels ({self.decoder_channels}) must be a multiple or a divisor of the {stage.channels} "
                f"channels of stage {index}",
            )
        require(
            0 <= self.decoder_blocks <= MAX_DECODER_BLOCKS,
            f"decoder_blocks must be 0 to {MAX_DECODER_BLOCKS}, not {self.decoder_blocks}",
        )
        tokens = math.prod(self.grid(0))
        require(
            tokens * self.decoder_channels <= MAX_GRID_FLOATS,
            f"decoder_channels {self.decoder_channels} are too many for the {tokens} tokens of stage 0: at most "
            f"{MAX_GRID_FLOATS // tokens // unit * unit}",
        )
        if self.decoder_blocks:
            try:
                _ = self.decoder
            except UserError as error:
                raise UserError(f"decoder: {error}") from None

    @property
    def decoder(self) -> ModelSpec:
        """A segmentation's decoder blocks as a network of one stage, on the finest grid."""
        finest = self.stages[0]
        stage = StageSpec(
            depth=self.decoder_blocks,
            channels=self.decoder_channels,
            hidden=self.decoder_hidden,
            mixer="conv",
            weight_bits=finest.weight_bits,
            activation_bits=finest.activation_bits,
        )
        return dataclasses.replace(self, task="classify", stages=(stage,))

    def _nearest_sizes(self) -> list[tuple[int, int]]:
        below, above = (
            tuple(max(self.stride, round_to(edge / self.stride) * self.stride) for edge in self.img_size)
            for round_to in (math.floor, math.ceil)
        )
        return sorted({(below[0], below[1]), (above[0], above[1])})

    @property
    def stride(self) -> int:
        """Pixels per token edge at the last stage; input edges are multiples of it."""
        return self.patch * 2 ** (len(self.stages) - 1)

    @property
    def kernel(self) -> int:
        """Edge of the stem's convolution in pixels."""
        return self.patch if self.stem_kernel is None else self.stem_kernel

    @property
    def float_storage(self) -> Literal["mixed", "int8"]:
        """Default storage of floats in packed files (`format.float_storage`)."""
        return "int8" if self.float_bits == 8 else "mixed"

    @property
    def registered(self) -> tuple[str, ...]:
        """Registered names that the spec uses, such as "mixer mine"."""
        used: list[tuple[str, str]] = [("mixer", stage.mixer) for stage in self.stages]
        used += [(field, getattr(self, field)) for field in REGISTRIES if field != "mixer"]
        return tuple(dict.fromkeys(f"{field} {name}" for field, name in used if name in REGISTRIES[field]))

    def grid(self, stage: int) -> tuple[int, int]:
        """Tokens (H, W) of a stage."""
        edge = self.patch * 2**stage
        return self.img_size[0] // edge, self.img_size[1] // edge

    def window(self, stage: int) -> tuple[int, int]:
        """Attention window (H, W) of a stage in tokens.

        As set, or else the divisors of the grid nearest to 7.
        """
        chosen = self.stages[stage].window
        return chosen or (nearest_divisor(self.grid(stage)[0]), nearest_divisor(self.grid(stage)[1]))

    def to_json(self) -> str:
        """The spec as JSON with sorted keys; `from_json` gives an equal spec back.

        Fields of `_OMITTED_AT_DEFAULT` are left out at their defaults, and of a classifier the task and decoder: files
        are as before these fields existed.
        """
        fields = dataclasses.asdict(self)
        if self.task == "classify":
            for name in DECODER_FIELDS:
                del fields[name]
        for field in dataclasses.fields(self):
            if field.name in _OMITTED_AT_DEFAULT and fields[field.name] == field.default:
                del fields[field.name]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """A spec from `to_json`. Raises UserError naming what is missing, unknown or impossible."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if "leftover_bits" in fields:  # its name in bhvit 0.1.0
                fields["float_bits"] = fields.pop("leftover_bits")
            stages = tuple(StageSpec(**_typed(StageSpec, stage)) for stage in fields.pop("stages"))
            shifts = fields.pop("shifts")
            if not all(type(width) is int for width in shifts):
                raise UserError(f"shifts must be whole numbers, not {shifts!r}")
            return cls(stages=stages, shifts=tuple(shifts), **_typed(cls, fields))
        except UserError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise UserError(f"the model description is damaged: {error}") from error


def _typed(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a JSON file with the types that `kind` gives them.

    Raises UserError for a value of another type.
    """
    types = typing.get_type_hints(kind)
    return {name: convert_field(name, types[name], value) if name in types else value for name, value in fields.items()}


def nearest_divisor(edge: int, target: int = NOMINAL_WINDOW) -> int:
    """Return the divisor of `edge` nearest to `target` by ratio, the smaller on a tie."""
    divisors = [d for d in range(1, edge + 1) if edge % d == 0]
    return min(divisors, key=lambda d: (abs(math.log(d / target)), d))


def _one_of(name: str, value: object, options: tuple[object, ...]) -> None:
    registry = REGISTRIES.get(name)
    registered = registry is not None and value in registry
    hint = f"; {registry.hint}" if registry is not None else ""
    require(value in options or registered, f"{name} must be {' or '.join(map(str, options))}, not {value!r}{hint}")
