"""Quantisation of the layers of one stage."""

from __future__ import annotations

import dataclasses

from ..spec.model import ModelSpec, Norm


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """Norm and quantisation of the layers of one stage."""

    norm: Norm = "batch"
    weight_bits: int = 1
    """1, or 32 for full-precision weights."""
    activation_bits: int = 1
    """1, or 32 for full-precision inputs of layers."""
    recu: bool = False
    """Whether linear layers' latent weights are bounded by ReCU."""
    centre_convs: bool = True
    """Whether convolutions' latent weights are centred before their signs are taken; those of linear layers are."""
    activation: str = dataclasses.field(default="rprelu", compare=False)
    """Made by `layers.make_activation`; no layer reads it, so layers compute alike whatever it is."""

    weight_quantizer: str = dataclasses.field(default="sign", compare=False)
    """Made by `quantizers.make_weight_quantizer`; layers read the module, not its name."""
    activation_quantizer: str = dataclasses.field(default="sign", compare=False)
    """Made by `quantizers.make_activation_quantizer`."""
    packed: bool = dataclasses.field(default=False, compare=False)
    """Whether a layer's weights are what a quantiser made of latent ones: each channel's scale, or minus it."""

    @classmethod
    def of(cls, spec: ModelSpec, stage: int) -> QuantConfig:
        """The configuration of a stage, and of the downsampling that leads into it."""
        bits = spec.stages[stage]
        return cls(
            norm=spec.norm,
            weight_bits=bits.weight_bits,
            activation_bits=bits.activation_bits,
            recu=spec.recu,
            centre_convs=spec.centre_conv_weights,
            activation=spec.activation,
            weight_quantizer=spec.weight_quantizer,
            activation_quantizer=spec.activation_quantizer,
        )
