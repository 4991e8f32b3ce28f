"""Ranges of weights, per output channel or per layer, such that no bias saturates.

A TFLite bias is an int32 with the scale input_scale x weight_scale. Where a channel's weights are tiny, that scale is
so small that the bias does not fit, and ai-edge-quantizer 0.10 clips it. Such a channel's weight scale is widened until
the bias fits; its weights are then far below the bias and lose nothing that shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.quant.tflite_file import MAIN, constant, operators, tensor_name
from edgeport.quant.tflite_ranges import activation_scale
from edgeport.quant.weight_grid import LARGEST, kept_bits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeport.quant.tflite_file import Op
    from edgeport.quant.tflite_ranges import Range
    from edgeport.types import WeightBits

LARGEST_INT32 = 2**31 - 1
LARGEST_BIAS = 2**30  # the other half of int32 is room for the sum of products, and for rounding of the scales
POSITIONS = {  # of data, weights and bias among an operator's inputs, and the dimension of the weights' output channels
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}


@dataclass(frozen=True, kw_only=True)
class WeightRanges:
    """Ranges for ai-edge-quantizer, and how many channels were widened for their bias.

    Attributes:
        result: tensor name -> `min` and `max`, float32, of the weights' rank with one value an output channel.
        widened: tensor name of the weights -> number of channels widened.
    """

    result: Mapping[str, Mapping[str, np.ndarray]]
    widened: Mapping[str, int]


def weight_ranges(
    model: Any,
    ranges: Mapping[int, Range],
    *,
    weight_bits: WeightBits = 8,
    bits: Mapping[str, WeightBits] | None = None,
    per_channel: bool = True,
) -> WeightRanges:
    """Return symmetric ranges of all constant weights whose operator's input has a known range.

    Args:
        model: the float file, a `ModelT`.
        ranges: tensor index -> (low, high) of activations.
        weight_bits: of the file; int8 weights stay within +-`LARGEST` of them. Depthwise layers keep 8.
        bits: provenance key -> bits of a layer's weights; others have what is safe for any layer.
        per_channel: one range an output channel; False: one a layer, its widest channel's.
    """
    bounds: dict[int, np.ndarray] = {}
    widened: dict[str, int] = {}
    for op in operators(model):
        if op.kind not in POSITIONS:
            continue
        data, weights, bias, dimension = POSITIONS[op.kind]
        value = constant(model, op.inputs[weights])
        if value is None or value.dtype != np.float32 or op.inputs[data] not in ranges:
            continue
        others = tuple(axis for axis in range(value.ndim) if axis != dimension)
        key = tensor_name(model, op.inputs[weights]).partition(";")[0]
        own = 8 if _is_depthwise(model, op, value) else (bits or {}).get(key, kept_bits(weight_bits))
        largest = LARGEST[own]
        bound = np.abs(value).max(axis=others, keepdims=True).astype(np.float64) * (127 / largest)
        shift = constant(model, op.inputs[bias]) if len(op.inputs) > bias else None
        if shift is not None:
            scale = activation_scale(ranges[op.inputs[data]])
            magnitude = np.abs(shift.astype(np.float64)).reshape(bound.shape)
            saturated = magnitude > LARGEST_INT32 * scale * np.maximum(bound, 1e-9) / 127
            bound = np.where(
                magnitude > LARGEST_BIAS * scale * np.maximum(bound, 1e-9) / 127,
                magnitude * 127 / (scale * LARGEST_BIAS),
                bound,
            )
            if saturated.any():
                widened[tensor_name(model, op.inputs[weights])] = int(saturated.sum())
        if not per_channel:
            bound = bound.max(keepdims=True)
        known = bounds.get(op.inputs[weights])
        bounds[op.inputs[weights]] = bound if known is None else np.maximum(known, bound)
    result = {
        tensor_name(model, index): {"min": -bound.astype(np.float32), "max": bound.astype(np.float32)}
        for index, bound in bounds.items()
    }
    return WeightRanges(result=result, widened=widened)


def _is_depthwise(model: Any, op: Op, weight: np.ndarray) -> bool:
    """Whether an operator has one output channel an input channel; weight: `(1, height, width, channels)`."""
    channels = model.subgraphs[MAIN].tensors[op.inputs[0]].shape[-1]
    return op.kind == "DEPTHWISE_CONV_2D" and int(channels) == weight.shape[-1]


def saturated_biases(model: Any) -> dict[str, int]:
    """Return bias tensor name -> number of int32 values at the end of int32, of a quantized file."""
    found = {}
    for op in operators(model):
        if op.kind not in POSITIONS or len(op.inputs) <= POSITIONS[op.kind][2]:
            continue
        index = op.inputs[POSITIONS[op.kind][2]]
        value = constant(model, index)
        if value is not None and value.dtype == np.int32:
            count = int((np.abs(value.astype(np.int64)) >= LARGEST_INT32).sum())
            if count:
                found[model.subgraphs[MAIN].tensors[index].name.decode()] = count
    return found
