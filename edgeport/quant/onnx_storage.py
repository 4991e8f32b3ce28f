"""Keep the weights of an ONNX file in float16 or int8; the layers compute in float32.

A float16 weight is followed by Cast, an int8 one by Cast and Mul with the channels' scales. ONNX Runtime computes those
once, while it loads the file. It does not fold DequantizeLinear, which then runs at every inference: 1.7 to 2.3 times
the float latency (ResNet-20, EfficientNet-Lite0). Nor is the arithmetic lowered: the CPU has few float16 kernels, and
ConvInteger behind DynamicQuantizeLinear takes 8 to 16 times as long as float, and loses 11 points of agreement on
EfficientNet-Lite0 (onnxruntime 1.32, its own `quantize_dynamic`, one thread, AVX2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeport.quant.affine import symmetric_weight
from edgeport.quant.onnx_placement import WEIGHTED, OnnxGraph, attributes
from edgeport.quant.storage import FEWEST_VALUES, NOTHING_STORED, Storage, float16_fault, stays_in_float32

if TYPE_CHECKING:
    import onnx


def store_weights(graph: OnnxGraph, storage: Storage) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the network with its weights kept in `storage`, and notes: what stayed in float32.

    int8 is for the weights of convolutions and linear layers; float16 also for other constants, such as embeddings.
    """
    from onnx import helper, numpy_helper

    source = graph.model
    readers = {node.input[1]: node for node in source.graph.node if node.op_type in WEIGHTED}
    constants, widening, faults = dict(graph.constants), [], {}
    for name, array in graph.constants.items():
        reader = readers.get(name)
        if array.dtype != np.float32 or array.size < FEWEST_VALUES:
            continue
        if storage == "float16":
            if fault := float16_fault(array):
                faults[name if reader is None else graph.provenance.get(reader.output[0], reader.name)] = fault
                continue
            constants[f"{name}:f16"] = array.astype(np.float16)
            widening.append(helper.make_node("Cast", [f"{name}:f16"], [name], to=1))  # 1: float32
        elif reader is None:
            continue
        else:
            axis = _channel_axis(reader, array)
            integers = symmetric_weight(array, axis=axis)
            shape = [-1 if index == axis else 1 for index in range(array.ndim)]
            constants |= {f"{name}:int": integers.integers, f"{name}:scale": integers.scales.reshape(shape)}
            widening += [
                helper.make_node("Cast", [f"{name}:int"], [f"{name}:steps"], to=1),
                helper.make_node("Mul", [f"{name}:steps", f"{name}:scale"], [name]),
            ]
        del constants[name]
    if not widening:
        return source, (*stays_in_float32(faults), *(() if faults else (NOTHING_STORED,)))
    nodes = [node for node in source.graph.node if node.op_type != "Constant" or node.output[0] not in graph.constants]
    model = helper.make_graph(
        [*widening, *nodes],
        source.graph.name,
        list(source.graph.input),
        list(source.graph.output),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    whole = helper.make_model(
        model, opset_imports=list(source.opset_import), ir_version=source.ir_version, producer_name="edgeport"
    )
    return whole, stays_in_float32(faults)


def _channel_axis(node: onnx.NodeProto, weight: np.ndarray) -> int:
    """Return the output channel axis of a layer's weight; for grouped transposed convolutions, the input channels'."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":  # (in, out / groups, ...)
        return 0 if attributes(node).get("group", 1) > 1 else 1
    if node.op_type == "Gemm" and attributes(node).get("transB"):
        return 0
    return weight.ndim - 1
