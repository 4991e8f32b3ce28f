"""Affine integer quantization: scales and zero points from calibrated ranges, integer weights and biases.

real = scale * (integer - zero_point), with zero always exactly representable. Source: Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), equation 1 (activations) and
section 2.4 (bias).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.quant.weight_grid import LARGEST, SMALLEST_SCALE, channel_scales, target_steps
from edgeport.types import WeightBits

if TYPE_CHECKING:
    from numpy.typing import NDArray

BIAS_LIMIT = 2**30  # of 2**31: half of the accumulator is left for the products that are added to the bias


@dataclass(frozen=True, kw_only=True)
class Affine:
    """How one tensor's reals map to 8-bit integers.

    Attributes:
        scale: real step between two integers, > 0; a float32 value.
        zero_point: the integer that stands for 0.0.
        smallest: lowest integer of the type, 0 or -128.
    """

    scale: float
    zero_point: int
    smallest: int

    @property
    def largest(self) -> int:
        """Highest integer of the type, 255 or 127."""
        return self.smallest + 255

    @property
    def low(self) -> float:
        """Lowest real that an integer stands for."""
        return self.scale * (self.smallest - self.zero_point)

    @property
    def high(self) -> float:
        """Highest real that an integer stands for."""
        return self.scale * (self.largest - self.zero_point)

    def quantize(self, values: NDArray[Any] | float) -> NDArray[np.int64]:
        """Return integers (int64, any shape), rounded half to even and clamped to the type."""
        integers = np.rint(np.asarray(values, np.float64) / self.scale) + self.zero_point
        clipped: NDArray[np.int64] = np.clip(integers, self.smallest, self.largest).astype(np.int64)
        return clipped

    def dequantize(self, integers: NDArray[Any]) -> NDArray[np.float64]:
        """Return the reals (float64, any shape) that these integers stand for."""
        return self.scale * (np.asarray(integers, np.float64) - self.zero_point)


def asymmetric(low: float, high: float, *, signed: bool = False) -> Affine:
    """Return the mapping of `[low, high]`, widened to hold zero, onto 0..255, or -128..127 when `signed`.

    A range of only zeros gets scale 1.

    Raises:
        ValueError: an end is not finite, or `low > high`.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"not a range: [{low}, {high}]")
    low, high = min(low, 0.0), max(high, 0.0)
    smallest = -128 if signed else 0
    if low == high:
        return Affine(scale=1.0, zero_point=smallest, smallest=smallest)
    scale = max(float(np.float32((high - low) / 255)), SMALLEST_SCALE)
    zero_point = smallest + round(min(max(-low / scale, 0.0), 255.0))
    return Affine(scale=scale, zero_point=zero_point, smallest=smallest)


@dataclass(frozen=True, kw_only=True)
class IntegerWeight:
    """Weights as symmetric integers with one scale a channel.

    Attributes:
        integers: shape of the float weight, int8, within +-`weight_grid.LARGEST` of their bits.
        scales: `(channels,)` float32, > 0.
        widened: indices of channels whose scale was raised so that their bias fits 32 bits.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    widened: tuple[int, ...] = ()


def symmetric_weight(  # noqa: PLR0913  # keyword-only past the first
    weight: NDArray[np.float32],
    *,
    axis: int,
    bits: WeightBits = 8,
    per_channel: bool = True,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
) -> IntegerWeight:
    """Return a weight as integers, symmetric, one scale a channel of `axis`.

    With a bias, a channel's scale is at least |bias| / (input_scale * 2**30): the bias is stored in 32 bits in steps of
    input_scale * scale, and where the weights are tiny it would saturate. The weights lose nothing that counts then:
    their largest product is at most a 2**-15th of the bias.

    Args:
        weight: any shape, float32.
        axis: the output channel.
        bits: of the integers, see `weight_grid`.
        per_channel: False: all channels get the largest channel's scale.
        bias: `(channels,)` float32.
        input_scale: scale of the activation that the weight is multiplied with.
    """
    rows = np.moveaxis(weight, axis, 0)
    flat = rows.reshape(len(rows), -1)
    scales = channel_scales(flat, bits)
    widened: tuple[int, ...] = ()
    if bias is not None:
        needed = least_scales(bias, input_scale)
        widened = tuple(int(index) for index in np.flatnonzero((needed > scales) & np.any(flat, axis=1)))
        scales = np.maximum(scales, needed.astype(np.float32))
    if not per_channel:
        scales = np.full_like(scales, scales.max())
    steps = target_steps(flat, scales, bits).reshape(rows.shape)
    integers = np.ascontiguousarray(np.moveaxis(rounded_steps(steps, LARGEST[bits]), 0, axis)).astype(np.int8)
    return IntegerWeight(integers=integers, scales=scales, widened=widened)


def rounded_steps(steps: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Round so that the errors of each kernel, then of each output channel, sum to at most half a step.

    Rounding to nearest leaves a sum of errors that, times the mean of a ReLU's output, shifts every sum of products the
    same way. After Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation" (2022),
    simplified: the largest errors are flipped first on both levels. It needs no data. Relative error of the logits of
    EfficientNet-Lite0 0.111 -> 0.074 with 8 bits, 0.163 -> 0.118 with 7.

    Args:
        steps: `(channels, ...)`, weight / scale; the axes after the second are one kernel.
        largest: the largest integer allowed.
    """
    shape = steps.shape
    integers = np.clip(np.rint(steps), -largest, largest)
    if shape[1] > 1 and steps[0, 0].size > 1:
        kernels = (shape[0] * shape[1], -1)
        integers = _flipped(steps.reshape(kernels), integers.reshape(kernels), largest)
    rows = (shape[0], -1)
    return _flipped(steps.reshape(rows), integers.reshape(rows), largest).reshape(shape)


def _flipped(steps: NDArray[np.float64], integers: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Move the values of each row that were rounded furthest to their other neighbour until the row's errors cancel."""
    errors = integers - steps
    total = errors.sum(1, keepdims=True)
    direction = np.sign(total)
    excess = errors * direction
    excess[np.abs(integers - direction) > largest] = 0.0
    order = np.argsort(-excess, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(steps.shape[1])[None], axis=1)
    return np.where((rank < np.rint(np.abs(total))) & (excess > 0), integers - direction, integers)


def least_scales(bias: NDArray[np.float32], input_scale: float) -> NDArray[np.float64]:
    """Return the smallest weight scale of each channel with which its bias fits 32 bits, `(channels,)`."""
    return np.asarray(np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT))


def rounded_bias(
    bias: NDArray[np.float32], *, input_scale: float, weight_scales: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a bias `(channels,)` as its 32-bit integers stand for it."""
    integers = integer_bias(bias, input_scale=input_scale, weight_scales=weight_scales)
    return (integers * (input_scale * weight_scales.astype(np.float64))).astype(np.float32)


def integer_bias(
    bias: NDArray[np.float32], *, input_scale: float, weight_scales: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Return a bias `(channels,)` as int32 in steps of input_scale * weight_scale.

    Raises:
        ValueError: a value does not fit 32 bits; `symmetric_weight` widens scales so that this cannot happen.
    """
    integers = np.rint(bias.astype(np.float64) / (input_scale * weight_scales.astype(np.float64)))
    if np.abs(integers).max(initial=0.0) > np.iinfo(np.int32).max:
        raise ValueError(f"bias {bias[np.abs(integers).argmax()]} does not fit 32 bits")
    return integers.astype(np.int32)
