"""Keep the weights of an OpenVINO file in float16 or int8; the CPU plugin widens them when it compiles the network.

Written here and not by `save_model(compress_to_fp16=True)`: that clamps what is beyond float16's range, silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13  # type: ignore[import-untyped]  # ships no types

from edgeport.quant.affine import symmetric_weight
from edgeport.quant.openvino_quantize import WEIGHTED
from edgeport.quant.storage import FEWEST_VALUES, NOTHING_STORED, Storage, float16_fault, stays_in_float32

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openvino import Model, Node


def store_weights(model: Model, storage: Storage, provenance: Mapping[str, str]) -> tuple[str, ...]:
    """Change a float model in place so that its weights are kept in `storage`; return what stayed in float32.

    int8 is for the weights of convolutions and linear layers; float16 also for other constants, such as embeddings.

    Args:
        model: constants folded; its operators are named after those of the ONNX form.
        storage: number format to keep.
        provenance: ONNX node name -> provenance key.
    """
    faults: dict[str, str] = {}
    stored = 0
    for constant in [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]:
        if constant.get_element_type().get_type_name() != "f32" or constant.data.size < FEWEST_VALUES:
            continue
        readers = list(constant.output(0).get_target_inputs())
        layer = next((r.get_node() for r in readers if r.get_node().get_type_name() in WEIGHTED), None)
        if layer is None and storage == "int8":
            continue
        if storage == "float16" and (fault := float16_fault(constant.data)):
            base = (constant if layer is None else layer).get_friendly_name().partition("/")[0]
            faults[provenance.get(base, base)] = fault
            continue
        wide = _float16(constant) if layer is None or storage == "float16" else _int8(constant, layer)
        for reader in readers:
            reader.replace_source_output(wide.output(0))
        stored += 1
    model.validate_nodes_and_infer_types()
    return (*stays_in_float32(faults), *(() if stored or faults else (NOTHING_STORED,)))


def _channel_axes(layer: Node, weight: np.ndarray) -> tuple[int, ...]:
    """Return the axes along which a layer's weight has a scale of its own; groups are the first."""
    kind = layer.get_type_name()
    if kind == "MatMul":
        return (weight.ndim - 2 if layer.get_attributes()["transpose_b"] else weight.ndim - 1,)
    return {
        "Convolution": (0,),
        "GroupConvolution": (0, 1),
        "ConvolutionBackpropData": (1,),
        "GroupConvolutionBackpropData": (0, 2),
    }[kind]


def _rows(weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return a weight as (channels, ...), float32; the axes after the first are one kernel's."""
    front = np.moveaxis(weight, axes, range(len(axes)))
    return front.reshape(-1, *front.shape[len(axes) :])


def _float16(constant: Node) -> Node:
    return opset13.convert(opset13.constant(constant.data.astype(np.float16)), "f32")


def _int8(constant: Node, layer: Node) -> Node:
    weight = constant.data
    axes = _channel_axes(layer, weight)
    rows = _rows(weight, axes)
    integers = symmetric_weight(rows if rows.ndim > 1 else rows[:, None], axis=0)
    front = np.moveaxis(weight, axes, range(len(axes))).shape
    back = np.moveaxis(integers.integers.reshape(front), range(len(axes)), axes)
    scales = integers.scales.reshape([weight.shape[index] if index in axes else 1 for index in range(weight.ndim)])
    steps = opset13.convert(opset13.constant(np.ascontiguousarray(back)), "f32")
    return opset13.multiply(steps, opset13.constant(scales))
