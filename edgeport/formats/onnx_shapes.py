"""Shapes of every value of an ONNX graph, also behind the operators that ONNX Runtime adds to the standard.

onnx infers nothing behind an operator it does not know. Each such operator has a standard one with the same shape
rule; in a copy of the graph it is replaced by that, between casts to float32 and back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    Shapes = dict[str, tuple[tuple[int, ...] | None, int]]

RUNTIME_DOMAIN = "com.microsoft"
# ONNX Runtime's operator -> (standard operator with the same shape rule, the inputs it takes, whether it gives floats)
STAND_INS: dict[str, tuple[str, Sequence[int], bool]] = {
    "FusedConv": ("Conv", (0, 1), True),
    "FusedGemm": ("Gemm", (0, 1), True),
    "FusedMatMul": ("MatMul", (0, 1), True),
    "MatMulIntegerToFloat": ("MatMul", (0, 1), True),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1), True),
    "QGemm": ("Gemm", (0, 3), False),
    "QLinearAdd": ("Add", (0, 3), False),
    "QLinearMul": ("Mul", (0, 3), False),
    "QLinearAveragePool": ("AveragePool", (0,), False),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), False),
    "QLinearConcat": ("Concat", range(2, 1 << 16, 3), False),  # scale, zero point, then three inputs a tensor
    "QLinearLeakyRelu": ("Identity", (0,), False),
    "QLinearSigmoid": ("Identity", (0,), False),
    "QLinearSoftmax": ("Identity", (0,), False),
    "QuantizeLinear": ("Identity", (0,), False),
    "DequantizeLinear": ("Identity", (0,), True),
    "Gelu": ("Identity", (0,), True),
    "QuickGelu": ("Identity", (0,), True),
}


def infer_shapes(model: onnx.ModelProto) -> Shapes:
    """Return value name -> (sizes with every open size of the inputs as one, onnx element type).

    Sizes are None, or an element type 0, where they cannot be told. The model is not changed.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # may say another batch size than the one that is inferred with
    for value in copy.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 1
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    nodes = [part for node in model.graph.node for part in _standard(node)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    found: Shapes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        sizes = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        is_known = kind.HasField("shape") and -1 not in sizes
        found[value.name] = (sizes if is_known else None, kind.elem_type)
    for tensor in inferred.initializer:
        found[tensor.name] = (tuple(tensor.dims), tensor.data_type)
    return found


def _standard(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the node, or what has the same shape rule in its place."""
    import onnx

    has_other_layout = any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)
    if node.domain != RUNTIME_DOMAIN or node.op_type not in STAND_INS or has_other_layout:
        return [node]
    kind, positions, is_float = STAND_INS[node.op_type]
    factors = [node.input[position] for position in positions if position < len(node.input)]
    casts = [
        onnx.helper.make_node("Cast", [name], [f"{node.output[0]}/{index}"], to=onnx.TensorProto.FLOAT)
        for index, name in enumerate(factors)
    ]
    result = f"{node.output[0]}/result"
    middle = onnx.helper.make_node(kind, [cast.output[0] for cast in casts], [result])
    middle.attribute.extend(attribute for attribute in node.attribute if attribute.name not in {"activation"})
    if is_float:
        last = onnx.helper.make_node("Cast", [result], [node.output[0]], to=onnx.TensorProto.FLOAT)
    else:  # eight bits, signed as its data; CastLike takes that type
        like = factors[0] if node.op_type != "QuantizeLinear" else node.input[-1]
        last = onnx.helper.make_node("CastLike", [result, like], [node.output[0]])
    return [*casts, middle, last]


def dtype_name(element_type: int) -> str:
    """Return numpy's name of an onnx element type: FLOAT -> `float32`; `unknown` when onnx has none."""
    import onnx

    if element_type == onnx.TensorProto.UNDEFINED or element_type not in onnx.TensorProto.DataType.values():
        return "unknown"
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a constant from its shape, since they may lie in another file."""
    import onnx

    is_packed = dtype_name(tensor.data_type) in {"int4", "uint4", "float4e2m1"}
    bits = 4 if is_packed else 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    elements: int = math.prod(tensor.dims)
    return -(-elements * bits // 8)
