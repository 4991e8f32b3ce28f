"""Linear layers on more than two dimensions, spelled as Gemm on rows.

PyTorch's exporter writes them as MatMul + Add. ONNX Runtime turns that into Reshape + Gemm + Reshape before it looks
for quantizers, and then finds none around the Gemm: the layer would run in float32. So the reshapes are written here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from edgeport.quant.onnx_placement import OnnxGraph


def linear_as_gemm(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with every MatMul by a constant matrix + Add of a constant row as Reshape + Gemm + Reshape."""
    from dataclasses import replace

    import onnx

    pairs = {node.output[0]: add for node in graph.model.graph.node if (add := _bias_after(node, graph)) is not None}
    if not pairs:
        return graph
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    added = {add.output[0] for add in pairs.values()}
    ranges = dict(graph.ranges)
    for node in graph.model.graph.node:
        if node.output[0] in pairs:
            add = pairs[node.output[0]]
            _write_rows(model.graph, node, add, graph)
            copies = {f"{add.output[0]}:rows": add.output[0], f"{add.output[0]}:input": node.input[0]}
            ranges |= {copy: ranges[name] for copy, name in copies.items() if name in ranges}
        elif node.output[0] not in added:
            model.graph.node.append(node)
    provenance = {f"{name}:rows": graph.provenance[name] for name in added if name in graph.provenance}
    return replace(graph, model=model, ranges=ranges, provenance={**graph.provenance, **provenance})


def _bias_after(node: onnx.NodeProto, graph: OnnxGraph) -> onnx.NodeProto | None:
    """Return the addition of a linear layer's bias; None where the node is no such layer, or a shape is unknown."""
    if node.op_type != "MatMul" or node.input[1] not in graph.constants or node.input[0] in graph.constants:
        return None
    weight = graph.constants[node.input[1]]
    add = graph.sole_consumer(node.output[0])
    if weight.ndim != 2 or add is None or add.op_type != "Add" or graph.shape(add.output[0]) is None:
        return None
    bias = graph.constants.get(_other(add, node.output[0]))
    return add if bias is not None and bias.shape == (weight.shape[1],) else None


def _other(add: onnx.NodeProto, name: str) -> str:
    return str(add.input[1] if add.input[0] == name else add.input[0])


def _write_rows(out: onnx.GraphProto, matmul: onnx.NodeProto, add: onnx.NodeProto, graph: OnnxGraph) -> None:
    from onnx import helper, numpy_helper

    value, result = matmul.input[0], add.output[0]
    sizes = np.array(graph.shape(result), np.int64)
    rows = np.array([-1, len(graph.constants[matmul.input[1]])], np.int64)
    out.initializer.extend(
        [numpy_helper.from_array(rows, f"{result}:as_rows"), numpy_helper.from_array(sizes, f"{result}:sizes")]
    )
    factors = [f"{result}:input", matmul.input[1], _other(add, matmul.output[0])]
    out.node.extend(
        [
            helper.make_node("Reshape", [value, f"{result}:as_rows"], [factors[0]]),
            helper.make_node("Gemm", factors, [f"{result}:rows"], name=add.name or matmul.name),
            helper.make_node("Reshape", [f"{result}:rows", f"{result}:sizes"], [result]),
        ]
    )
