"""Keep the weights of a TFLite file in float16 or int8; the layers compute in float32.

A weight is followed by DEQUANTIZE, which XNNPACK computes once, while it loads the file. int8 weights that layers read
themselves ("hybrid": activations quantized at every inference) were measured and rejected: tflite-runtime 2.14 takes
the first channel's scale for all channels (ResNet-20: error 0.98 of the output), convolutions take 1.06 (EfficientNet-
Lite0) to 1.12 times (ResNet-20) as long as in float32 on AVX2, and answers are less exact. Networks of linear layers
alone would gain, 0.5 of the float latency in ai-edge-litert 2.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeport.quant.affine import symmetric_weight
from edgeport.quant.storage import FEWEST_VALUES, NOTHING_STORED, Storage, float16_fault, stays_in_float32
from edgeport.quant.tflite_constants import kept_small
from edgeport.quant.tflite_file import MAIN, constant, operators, read, tensor_name, write
from edgeport.quant.tflite_weights import POSITIONS

DEQUANTIZE_VERSION = 5  # the first with a scale a channel (tensorflow/lite/tools/versioning/op_version.cc)


def store_weights(content: bytes, storage: Storage) -> tuple[bytes, tuple[str, ...]]:
    """Return a float file with its weights kept in `storage`, and notes: what stayed in float32.

    int8 is for the weights of convolutions and linear layers; float16 also for other constants, such as embeddings.
    """
    model = read(content)
    faults: dict[str, str] = {}
    widening = []
    for index, (value, axis) in _constants(model).items():
        if storage == "int8":
            if axis is not None:
                integers, scales = _int8(value, axis)
                widening.append(_widened(model, index, integers, _per_channel(scales, axis)))
        elif fault := float16_fault(value):
            faults[tensor_name(model, index).partition(";")[0]] = fault
        else:
            widening.append(_widened(model, index, value.astype(np.float16), None))
    model.subgraphs[MAIN].operators = [*widening, *model.subgraphs[MAIN].operators]
    return write(model), (*stays_in_float32(faults), *(() if widening or faults else (NOTHING_STORED,)))


def _constants(model: Any) -> dict[int, tuple[np.ndarray, int | None]]:
    """Return tensor index -> value and, of a layer's weights, the output channel axis; large float32 ones only."""
    found: dict[int, tuple[np.ndarray, int | None]] = {}
    for op in operators(model):
        weights = op.inputs[POSITIONS[op.kind][1]] if op.kind in POSITIONS else None
        for index in op.inputs:
            value = constant(model, index)
            if value is None or value.dtype != np.float32 or value.size < FEWEST_VALUES:
                continue
            if index == weights:
                found[index] = (value, POSITIONS[op.kind][3])
            else:
                found.setdefault(index, (value, None))
    return found


def _int8(value: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return integers of the weight's shape and the channels' scales.

    Rounding errors are balanced kernel by kernel: the weight is brought into the order (out, in, kernel) for that.
    """
    if axis == 0:  # (out, h, w, in) or (out, in)
        rows = np.moveaxis(value.reshape(len(value), -1, value.shape[-1]), 1, 2)
        weight = symmetric_weight(np.ascontiguousarray(rows), axis=0)
        return np.ascontiguousarray(np.moveaxis(weight.integers, 1, 2)).reshape(value.shape), weight.scales
    rows = np.moveaxis(value, axis, 0)  # depthwise, (1, h, w, out)
    weight = symmetric_weight(np.ascontiguousarray(rows.reshape(len(rows), 1, -1)), axis=0)
    return np.ascontiguousarray(np.moveaxis(weight.integers.reshape(rows.shape), 0, axis)), weight.scales


def _per_channel(scales: np.ndarray, axis: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint, found.quantizedDimension = scales, np.zeros(len(scales), np.int64), axis
    return found


def _widened(model: Any, index: int, small: np.ndarray, quantization: Any) -> Any:
    """Keep a constant as `small` under another name and return the operator that makes float32 of it."""
    from ai_edge_litert import schema_py_generated as schema

    kept = schema.TensorT()
    kept.name = model.subgraphs[MAIN].tensors[index].name + (b";float16" if quantization is None else b";int8")
    kept.type = schema.TensorType.FLOAT16 if quantization is None else schema.TensorType.INT8
    kept.quantization = quantization
    kind = schema.BuiltinOperator.DEQUANTIZE
    return kept_small(model, index, kept, small, kind=kind, version=DEQUANTIZE_VERSION)
