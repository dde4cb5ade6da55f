"""Types of the fused kernels of a training step; `bhvit.models.fused` calls them.

Floats are of the type of the submodule, words of 32 signs are int32. Every tensor is contiguous and on the CPU. Sizes
come from shapes, and all of them are compared before a kernel reads memory: TypeError or ValueError name the tensor
that does not fit. What a kernel computes stands in native/training/kernels.h; tensors it fills come last.
"""

from collections.abc import Sequence

from torch import Tensor

class Kernels:
    """The kernels of an instruction set for one type of float."""

    multiplies_signs: bool
    """Whether `sign_products`, `sign_conv` and `sign_conv_weights` exist; otherwise they raise ValueError."""

    @staticmethod
    def statistics(
        *,
        x: Tensor,
        epsilon: float,
        momentum: float,
        threads: int,
        mean: Tensor,
        inverse: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
    ) -> None:
        """Mean and 1 / deviation of each channel of x (..., C); running statistics move towards them by `momentum`."""

    @staticmethod
    def normalise(
        *, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor, threads: int, out: Tensor
    ) -> None:
        """Batch norm of x (..., C) into `out`."""

    @staticmethod
    def normalise_backward(
        *,
        x: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor,
        bias: Tensor,
        threads: int,
        out_grad: Tensor,
        x_grad: Tensor,
        weight_grad: Tensor,
        bias_grad: Tensor,
    ) -> None:
        """Gradients of `normalise`; `mean` and `inverse` are those of x itself."""

    @staticmethod
    def signs(*, x: Tensor, learnable_bias: Tensor, binary: bool, threads: int, out: Tensor) -> None:
        """Signs of x + learnable_bias (..., C) into `out`; x + learnable_bias itself if not `binary`."""

    @staticmethod
    def signs_backward(
        *,
        x: Tensor,
        learnable_bias: Tensor,
        binary: bool,
        threads: int,
        out_grad: Tensor,
        add: bool,
        x_grad: Tensor,
        learnable_bias_grad: Tensor,
    ) -> None:
        """Gradients of `signs`, with Bi-Real Net's derivative of the sign; that of x is added to `x_grad` if `add`."""

    @staticmethod
    def pack_bits(*, x: Tensor, learnable_bias: Tensor, threads: int, bits: Tensor) -> None:
        """Signs of x + learnable_bias (..., C) as words (..., C / 32)."""

    @staticmethod
    def unpack_bits(*, bits: Tensor, threads: int, out: Tensor) -> None:
        """Words (..., C / 32) as signs (..., C)."""

    @staticmethod
    def binarise(*, latent: Tensor, centre: Tensor | None, threads: int, out: Tensor) -> None:
        """Binary weights of latent ones (O, ...): signs of latent - centre (O,), times each row's mean magnitude."""

    @staticmethod
    def binarise_backward(
        *, latent: Tensor, centre: Tensor | None, threads: int, out_grad: Tensor, latent_grad: Tensor
    ) -> None:
        """Gradient of latent weights for that of binary ones; both may be one tensor."""

    @staticmethod
    def weight_bits(*, latent: Tensor, centre: Tensor | None, threads: int, bits: Tensor, scale: Tensor) -> None:
        """`binarise` of (O, K) as words (O, K / 32) and magnitudes (O,); without `centre`, of binary weights."""

    @staticmethod
    def binary_linear(
        *,
        bits: Tensor,
        weights: Tensor,
        scale: Tensor,
        epsilon: float,
        momentum: float,
        threads: int,
        out: Tensor,
        mean: Tensor,
        inverse: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
    ) -> None:
        """Products (..., O) of words (..., K / 32) and (O, K / 32), times `scale` (O,), and their `statistics`."""

    @staticmethod
    def bit_columns(*, bits: Tensor, threads: int, columns: Tensor) -> None:
        """Words (..., C / 32) of R rows in columns (R / 32 rounded up, C)."""

    @staticmethod
    def sign_products(
        *, a: Tensor, transposed: bool, scale: Tensor | None, columns: Tensor, threads: int, out: Tensor
    ) -> None:
        """a (R, I), or (I, R) if `transposed`, times `scale` (I,), times signs in columns (I / 32 rounded up, C).

        See `multiplies_signs`.
        """

    @staticmethod
    def unit(
        *,
        h: Tensor,
        residual: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift_in: Tensor,
        slope: Tensor,
        shift_out: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        learnable_bias: Tensor | None,
        binary: bool,
        threads: int,
        out: Tensor | None = None,
        signs: Tensor | None = None,
        means: Tensor | None = None,
    ) -> None:
        """RPReLU(norm(h) + residual), then scale * it + shift, into `out`.

        With `learnable_bias`, its signs, as floats or words, and means of its channels (as `residual`) instead.
        """

    @staticmethod
    def unit_backward(
        *,
        h: Tensor,
        residual: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift_in: Tensor,
        slope: Tensor,
        shift_out: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        learnable_bias: Tensor | None,
        binary: bool,
        threads: int,
        out_grad: Tensor | None,
        signs_grad: Tensor | None,
        means_grad: Tensor | None,
        h_grad: Tensor,
        residual_grad: Tensor,
        weight_grad: Tensor,
        bias_grad: Tensor,
        shift_in_grad: Tensor,
        slope_grad: Tensor,
        shift_out_grad: Tensor,
        scale_grad: Tensor | None,
        shift_grad: Tensor | None,
        learnable_bias_grad: Tensor | None,
    ) -> None:
        """Gradients of `unit` for that of `out`, or those of `signs` and `means`."""

    @staticmethod
    def branches(
        *,
        ys: Sequence[Tensor],
        inputs: Sequence[Tensor],
        slopes: Sequence[Tensor],
        shift: Tensor,
        threads: int,
        out: Tensor,
    ) -> None:
        """The sum of PReLU(y + input) (..., C) over the branches, and shift (C,)."""

    @staticmethod
    def branches_backward(
        *,
        ys: Sequence[Tensor],
        inputs: Sequence[Tensor],
        slopes: Sequence[Tensor],
        threads: int,
        out_grad: Tensor,
        ys_grad: Sequence[Tensor],
        inputs_grad: Sequence[Tensor],
        slopes_grad: Sequence[Tensor],
        shift_grad: Tensor,
    ) -> None:
        """Gradients of `branches`."""

    @staticmethod
    def conv(*, x: Tensor, weights: Tensor, dilation: int, add: bool, threads: int, out: Tensor) -> None:
        """3x3 convolution in groups of x (B, H, W, C), zeros outside; weights are (groups, 9, inputs, outputs)."""

    @staticmethod
    def conv_weights(*, x: Tensor, dilation: int, threads: int, out_grad: Tensor, weights_grad: Tensor) -> None:
        """Gradient of the weights of `conv`."""

    @staticmethod
    def binary_conv(*, x: Tensor, weights: Tensor, dilation: int, threads: int, out: Tensor) -> None:
        """`conv` of signs with weights that of an output differ in their signs alone."""

    @staticmethod
    def sign_conv(*, x: Tensor, weights: Tensor, dilation: int, add: bool, threads: int, out: Tensor) -> None:
        """`conv` with weights that of an input differ in their signs alone. See `multiplies_signs`."""

    @staticmethod
    def sign_conv_weights(*, x: Tensor, dilation: int, threads: int, out_grad: Tensor, weights_grad: Tensor) -> None:
        """`conv_weights` for signs x. See `multiplies_signs`."""

    @staticmethod
    def cross(
        *,
        x: Tensor,
        taps: Tensor,
        shift: Tensor,
        base: Tensor,
        offsets: Sequence[Sequence[int]],
        cyclic: bool,
        threads: int,
        out: Tensor,
    ) -> None:
        """base + shift + the sum of taps (9, C) at `offsets` (row, column) of x (B, H, W, C), with zeros or cyclic."""

    @staticmethod
    def cross_backward(
        *,
        x: Tensor,
        taps: Tensor,
        offsets: Sequence[Sequence[int]],
        cyclic: bool,
        threads: int,
        out_grad: Tensor,
        x_grad: Tensor,
        taps_grad: Tensor,
        shift_grad: Tensor,
    ) -> None:
        """Gradients of `cross`; that of `base` is `out_grad`."""

    @staticmethod
    def attention(*, q: Tensor, k: Tensor, v: Tensor, step: Tensor, offset: Tensor, threads: int, out: Tensor) -> None:
        """Contexts of signs q (..., T, C), k and v (..., S, C); step and offset (heads,) quantise probabilities."""

    @staticmethod
    def attention_backward(
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Tensor,
        offset: Tensor,
        threads: int,
        out_grad: Tensor,
        q_grad: Tensor,
        k_grad: Tensor,
        v_grad: Tensor,
        step_grad: Tensor,
        offset_grad: Tensor,
    ) -> None:
        """Gradients of `attention`; those of step and offset before they are scaled."""

class Isa:
    """An instruction set."""

    float32: Kernels
    float64: Kernels

isas: dict[str, Isa]
"""Those that this machine can run, the fastest first."""
