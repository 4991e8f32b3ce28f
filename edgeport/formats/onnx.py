"""Reads ONNX files, in the quantize-dequantize form or with integer operators, and what ONNX Runtime makes of them.

Only the main graph is read; bodies of control flow operators count nothing.
"""

from __future__ import annotations

import ast
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeport.errors import ConfigError, MissingPackageError
from edgeport.formats import ExecutedOp, Interface, TensorInfo, file_bytes
from edgeport.formats.onnx_shapes import dtype_name, infer_shapes, stored_bytes
from edgeport.formats.operators import Graph, Operator, Product, Role, Tensor, costs_of, signless

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgeport.types import OpCost

# position of (data, weights) among an operator's inputs
CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
LINEARS = {
    "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3), "MatMul": (0, 1), "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "MatMulIntegerToFloat": (0, 1), "DynamicQuantizeMatMul": (0, 1),
}  # fmt: skip
PRODUCTS = {**CONVOLUTIONS, **LINEARS, "ConvTranspose": (0, 1)}
INTEGER = frozenset(
    {
        "ConvInteger",
        "QLinearConv",
        "QGemm",
        "MatMulInteger",
        "QLinearMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
ROLES: dict[str, Role] = {
    "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize", "Reshape": "move", "Transpose": "move",
    "Flatten": "move", "Squeeze": "move", "Unsqueeze": "move", "MaxPool": "move", "Concat": "join", "Relu": "epilogue",
    "Clip": "epilogue",
}  # fmt: skip


def read_costs(path: Path) -> tuple[OpCost, ...]:
    """Return a row an operator, in execution order, with batch one.

    A `Conv`, `Gemm` or `MatMul` whose data and weights both come from `DequantizeLinear` of eight-bit integers counts
    as int8: that is how a quantized file in QDQ form says it.

    Raises:
        ConfigError: the file is missing, damaged or no ONNX file, or leaves other sizes than the batch open.
        MissingPackageError: onnx is not installed.
    """
    model = _read(path)
    _check_sizes(model, path)
    return costs_of(_graph(model, path))


def read_interface(path: Path) -> Interface:
    """Return inputs and outputs; integers at the edge have the scale of the operator that makes or reads them.

    Raises:
        ConfigError: the file is missing, damaged or no ONNX file.
        MissingPackageError: onnx is not installed.
    """
    graph = _read(path).graph
    scaled: dict[str, tuple[float, int] | None] = {}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            edge = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
            try:
                scaled[edge] = _quantization(node, constants)
            except ValueError as error:
                raise _damaged(path, f"{node.op_type} '{_name(node)}': {error}") from error
    return Interface(
        inputs=tuple(_info(value, scaled) for value in graph.input if value.name not in constants),
        outputs=tuple(_info(value, scaled) for value in graph.output),
    )


def executed_operators(path: Path) -> tuple[ExecutedOp, ...]:
    """Return the operators that ONNX Runtime has left after its extended optimizations, on this processor.

    The last level, which only changes the layout in memory (NCHWc), is left out: it hides what was fused.

    Raises:
        ConfigError: the file is missing, damaged or no ONNX file, or the runtime refuses it.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    original = _read(path)
    optimized = _optimized(path)
    from_output = {name: node for node in original.graph.node for name in node.output}
    from_name = {node.name: node for node in original.graph.node if node.name}
    graph = _graph(optimized, path)
    found = []
    for operator in graph.operators:
        before = from_name.get(operator.name) or next(
            (from_output[o] for o in operator.outputs if o in from_output), None
        )
        found.append(
            ExecutedOp(
                name=operator.name,
                kind=operator.kind,
                dtype=_executed_dtype(operator, graph.tensors),
                layers=(_name(before),) if before is not None else (),
                provenance=_scope(before) if before is not None else None,
            )
        )
    return tuple(found)


def _executed_dtype(operator: Operator, tensors: Mapping[str, Tensor]) -> str:
    if operator.kind in INTEGER or operator.kind.startswith("QLinear"):
        return "int8"
    return signless(tensors[operator.outputs[0]].dtype) if operator.outputs else ""


def _packages(*names: str) -> None:
    for name in names:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"package '{error.name}', needed for .onnx files, is not installed: pip install 'edgeport[onnxruntime]'"
            ) from error


def _damaged(path: Path, reason: object) -> ConfigError:
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return ConfigError(
        f"'{path}' is not a sound ONNX file: {(lines or ['unreadable'])[0].rstrip('.')}; write or copy it again"
    )


def _read(path: Path) -> onnx.ModelProto:
    """Return the checked model; tensors kept in other files are not loaded."""
    _packages("onnx")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

    content = file_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise _damaged(path, error) from error
    if not model.graph.output:
        raise _damaged(path, "it holds no graph")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    for tensor in model.graph.initializer:
        is_known = dtype_name(tensor.data_type) != "unknown"
        if not is_known or (tensor.HasField("raw_data") and len(tensor.raw_data) != stored_bytes(tensor)):
            raise _damaged(path, f"constant '{tensor.name}' has another type or size than its bytes")
    return model


def _optimized(path: Path) -> onnx.ModelProto:
    """Return what ONNX Runtime makes of a file."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # version 1.32 heeds it at import (its docs/Privacy.md)
    _packages("onnx", "onnxruntime")
    import onnx
    import onnxruntime  # type: ignore[import-untyped]  # ships no types
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped]  # ships no types

    onnxruntime.disable_telemetry_events()  # Windows heeds only this
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised as well, and a warning says the file is not portable
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (*refusals, state.RuntimeException) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"ONNX Runtime refuses '{path}': {reason}") from error
        return onnx.load(options.optimized_model_filepath)


def _check_sizes(model: onnx.ModelProto, path: Path) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        sizes = _sizes(value)
        if value.name not in constants and -1 in sizes[1:]:
            raise ConfigError(
                f"'{path}': input '{value.name}' has the shape {sizes}: operators can be counted only when no size but "
                "the batch is open"
            )


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim)


def _info(value: onnx.ValueInfoProto, scaled: Mapping[str, tuple[float, int] | None]) -> TensorInfo:
    return TensorInfo(
        name=value.name,
        shape=_sizes(value),
        dtype=dtype_name(value.type.tensor_type.elem_type),
        quantization=scaled.get(value.name),
    )


def _quantization(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, int] | None:
    """Return the one scale and zero point of a quantizing operator; None when they are per channel or computed."""
    import onnx

    known = [constants.get(name) for name in node.input[1:]]
    if not known or known[0] is None or None in known:
        return None
    values = [onnx.numpy_helper.to_array(tensor).ravel() for tensor in known if tensor is not None]
    if any(value.size != 1 for value in values):
        return None
    return float(values[0][0]), int(values[1][0]) if len(values) > 1 else 0


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)


def _scope(node: onnx.NodeProto) -> str | None:
    """Return the torch module path that PyTorch's exporter wrote into the node's metadata, if it was kept."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                return None
            modules = [scope for scope in scopes[:-1] if scope]  # the last one is the operator itself
            return modules[-1] if modules else None
    return None


def _graph(model: onnx.ModelProto, path: Path) -> Graph:
    import onnx

    try:
        shapes = infer_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        raise _damaged(path, error) from error
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors = {
        name: Tensor(
            shape=sizes, dtype=dtype_name(kind), constant_bytes=stored_bytes(stored[name]) if name in stored else None
        )
        for name, (sizes, kind) in shapes.items()
    }
    operators = []
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            tensors.setdefault(name, Tensor(shape=None, dtype="unknown"))
        if node.op_type == "Constant":
            constant = tensors[node.output[0]]
            size = sum(a.t.ByteSize() and stored_bytes(a.t) for a in node.attribute if a.name == "value")
            tensors[node.output[0]] = Tensor(shape=constant.shape, dtype=constant.dtype, constant_bytes=size)
            continue
        operators.append(
            Operator(
                name=_name(node),
                kind=node.op_type,
                inputs=tuple(name for name in node.input if name),
                outputs=tuple(name for name in node.output if name),
                role=_role(node, tensors),
                product=_product(node, tensors, path),
                provenance=_scope(node),
            )
        )
    return Graph(operators=operators, tensors=tensors, outputs=frozenset(value.name for value in model.graph.output))


def _role(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> Role:
    if node.op_type == "Cast":  # how float16 weights are kept
        return "dequantize" if tensors[node.input[0]].constant_bytes is not None else "compute"
    if node.op_type in {"Add", "Sub", "Mul"}:
        is_alone = sum(tensors[name].constant_bytes is None for name in node.input) == 1
        return "epilogue" if is_alone else "compute"
    return ROLES.get(node.op_type, "compute")


def _product(node: onnx.NodeProto, tensors: Mapping[str, Tensor], path: Path) -> Product | None:
    """Return the multiply-adds (layouts: ONNX operators; com.microsoft ones: onnxruntime docs/ContribOperators.md)."""
    if node.op_type not in PRODUCTS:
        return None
    if max(PRODUCTS[node.op_type]) >= len(node.input):
        raise _damaged(path, f"{node.op_type} '{_name(node)}' has {len(node.input)} inputs")
    data, weights = (node.input[position] for position in PRODUCTS[node.op_type])
    source, factor, result = (tensors[name].shape for name in (data, weights, node.output[0]))
    if source is None or factor is None or result is None:
        raise ConfigError(
            f"'{path}': the shapes of {node.op_type} '{_name(node)}' cannot be told, so not its multiply-adds"
        )
    values: dict[str, Any] = {attribute.name: attribute.i for attribute in node.attribute}
    is_depthwise = False
    if node.op_type in CONVOLUTIONS:  # weights (out, in / group, ...)
        macs = math.prod(result) * math.prod(factor[1:])
        is_depthwise = factor[1] == 1 and values.get("group", 1) > 1
    elif node.op_type == "ConvTranspose":  # weights (in, out / group, ...)
        macs = math.prod(source) * math.prod(factor[1:])
        is_depthwise = values.get("group", 1) == source[1] > 1
    else:
        is_transposed = bool(values.get("transA", 0)) and len(source) > 1
        macs = math.prod(result) * source[-2 if is_transposed else -1]
    return Product(data=data, weights=weights, macs=macs, is_depthwise=is_depthwise, is_integer=node.op_type in INTEGER)
