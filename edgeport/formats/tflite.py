"""Reads TFLite files: a flatbuffer whose operators the interpreter runs as they stand, in order.

Only the first subgraph is read; bodies of control flow operators count nothing.
"""

from __future__ import annotations

import math
import re
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import ConfigError, MissingPackageError
from edgeport.formats import ExecutedOp, Interface, TensorInfo, file_bytes
from edgeport.formats.arena import Life, arena_bytes
from edgeport.formats.operators import BITS, Graph, Operator, Product, Tensor, costs_of, format_of_product, signless

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeport.types import OpCost

# position of (data, weights) among an operator's inputs
PRODUCTS = {
    "CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "CONV_3D": (0, 1), "FULLY_CONNECTED": (0, 1),
    "BATCH_MATMUL": (0, 1), "TRANSPOSE_CONV": (2, 1),
}  # fmt: skip
MOVES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
NOISE = (struct.error, IndexError, TypeError, ValueError, AttributeError, MemoryError)  # what unpacking noise raises
MISFITS = (IndexError, KeyError, TypeError, AttributeError)  # what a table raises that lacks what its kind must have


def read_costs(path: Path) -> tuple[OpCost, ...]:
    """Return a row an operator, in execution order, with batch one.

    Raises:
        ConfigError: the file is missing, damaged or no TFLite file.
        MissingPackageError: ai-edge-litert is not installed.
    """
    return costs_of(_graph(path))


def executed_operators(path: Path) -> tuple[ExecutedOp, ...]:
    """Return the file's operators: the interpreter runs them as they are.

    Raises:
        ConfigError: the file is missing, damaged or no TFLite file.
        MissingPackageError: ai-edge-litert is not installed.
    """
    graph = _graph(path)
    return tuple(
        ExecutedOp(
            name=operator.name,
            kind=operator.kind,
            dtype=_executed_dtype(operator, graph.tensors),
            layers=(operator.name,),
            provenance=operator.provenance,
        )
        for operator in graph.operators
    )


def read_arena_bytes(path: Path, *, is_builtin: bool = False) -> int:
    """Return the bytes that activations take while the file runs (see `arena`); unpacked weights are none of them.

    Args:
        path: the file.
        is_builtin: with the patches that the interpreter's own convolutions unroll their input to (im2col); XNNPACK,
            which runs by default, has none.

    Raises:
        ConfigError: the file is missing, damaged or no TFLite file.
        MissingPackageError: ai-edge-litert is not installed.
    """
    graph = _graph(path)
    count = len(graph.operators)
    unpacked = {name for operator in graph.operators if operator.role == "dequantize" for name in operator.outputs}
    kept = {str(index) for index in _parse(path).subgraphs[0].inputs} | graph.outputs
    first = {name: place for place, operator in enumerate(graph.operators) for name in operator.outputs}
    last = {name: place for place, operator in enumerate(graph.operators) for name in operator.inputs}
    lives = []
    for name, tensor in graph.tensors.items():
        is_used = name in first or name in last or name in kept
        if tensor.constant_bytes is None and is_used and name not in unpacked:
            start = first.get(name, -1)
            end = count if name in kept else last.get(name, start)
            size = tensor.elements * BITS.get(tensor.dtype, 8) // 8
            lives.append(Life(size=size, first=start, last=end))
    for place, operator in enumerate(graph.operators if is_builtin else ()):
        lives.append(Life(size=_patch_bytes(operator, graph.tensors), first=place, last=place))
    return arena_bytes(lives)


def _patch_bytes(operator: Operator, tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of a convolution's unrolled input; 0 where the input is that already, or nothing is unrolled."""
    if operator.product is None or operator.kind != "CONV_2D":
        return 0
    data, result = tensors[operator.product.data], tensors[operator.outputs[0]]
    source, channels = data.shape or (), (result.shape or (1,))[-1]
    patches = operator.product.macs // max(1, channels)
    return 0 if patches == math.prod(source) else patches * BITS.get(data.dtype, 8) // 8


def read_interface(path: Path) -> Interface:
    """Return inputs and outputs in the interpreter's order, named as in the file's first signature when it has one.

    Raises:
        ConfigError: the file is missing, damaged or no TFLite file.
        MissingPackageError: ai-edge-litert is not installed.
    """
    model = _parse(path)
    subgraph = model.subgraphs[0]
    signature = next((s for s in model.signatureDefs or () if s.subgraphIndex == 0), None)

    def infos(indices: Any, named: Any) -> tuple[TensorInfo, ...]:
        names = {entry.tensorIndex: _text(entry.name) for entry in named or ()}
        return tuple(_info(subgraph.tensors[index], names.get(index)) for index in indices)

    try:
        return Interface(
            inputs=infos(subgraph.inputs, signature and signature.inputs),
            outputs=infos(subgraph.outputs, signature and signature.outputs),
        )
    except MISFITS as error:
        raise _damaged(path, f"its interface cannot be read ({error})") from error


def module_path(tensor_name: str) -> str | None:
    """Return the torch module path that litert-torch wrote into a tensor's name; None when there is none.

    A name is a list of paths joined by `;`, of all operators fused into this one, the last one computed first:
    `Wrapper/zoo.Net_wrapped/torch.nn.modules.container.Sequential_layer1/torch.nn.modules.conv.Conv2d_0;1`. The path
    of the first operator is returned (`layer1.0`): that of the convolution, not of the ReLU behind it. Class names are
    taken to have no underscore. edgeport's own files have provenance keys for names: `layer1.0.conv1/conv2d;1`.
    """
    own, _, rest = tensor_name.partition(";")
    if re.fullmatch(r"[\w.]+/\w+", own) and "." not in rest:
        return own.rpartition("/")[0]
    found = None
    for part in tensor_name.split(";"):
        steps = part.split("/")
        if "." not in steps[0]:
            continue
        names = [match[1] for step in steps[1:] if (match := re.fullmatch(r"[\w.]*\._*[A-Za-z0-9]+_(\w+)", step))]
        if steps[0].endswith(".ChannelLastIOWrapper"):
            names = names[1:]  # the network itself, `wrapped`
        if names:
            found = ".".join(names)
    return found


def _info(tensor: Any, name: str | None) -> TensorInfo:
    signature = tensor.shapeSignature
    shape = tensor.shape if signature is None or len(signature) == 0 else signature
    quantization = tensor.quantization
    has_scale = quantization is not None and quantization.scale is not None and len(quantization.scale) == 1
    return TensorInfo(
        name=name or _text(tensor.name),
        shape=tuple(int(size) for size in (() if shape is None else shape)),
        dtype=_names("TensorType")[tensor.type].lower(),
        quantization=(float(quantization.scale[0]), int(quantization.zeroPoint[0])) if has_scale else None,
    )


def _executed_dtype(operator: Operator, tensors: Mapping[str, Tensor]) -> str:
    if operator.product is not None:
        data, weights = (signless(tensors[name].dtype) for name in (operator.product.data, operator.product.weights))
        return format_of_product(data, weights, data)
    return signless(tensors[operator.outputs[0]].dtype) if operator.outputs else ""


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated  # type: ignore[import-untyped]  # ships no types
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"package '{error.name}', which reads .tflite files, is not installed: pip install 'edgeport[tflite]'"
        ) from error
    return schema_py_generated


@cache
def _names(enumeration: str) -> dict[int, str]:
    """Return number -> name of one of the schema's enumerations."""
    members = vars(getattr(_schema(), enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def _text(raw: bytes | str | None) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw or ""


def _damaged(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"'{path}' is not a sound TFLite file: {reason}; write or copy it again")


def _parse(path: Path) -> Any:
    """Return the file as the schema's object tree, every table and every buffer of it within the file."""
    schema = _schema()
    content = file_bytes(path)
    if content[4:8] != b"TFL3":
        raise _damaged(path, f"bytes 4 to 8 are {content[4:8]!r}, not b'TFL3'")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        subgraphs, buffers, codes = model.subgraphs or [], model.buffers or [], model.operatorCodes or []
    except NOISE as error:
        raise _damaged(path, f"it is truncated or overwritten ({error})") from error
    if not subgraphs or not subgraphs[0].tensors:
        raise _damaged(path, "it holds no graph")
    tensors, operators = subgraphs[0].tensors, subgraphs[0].operators or []
    for index, tensor in enumerate(tensors):
        if not 0 <= tensor.buffer < max(1, len(buffers)):
            raise _damaged(path, f"tensor {index} names buffer {tensor.buffer} of {len(buffers)}")
    for index, operator in enumerate(operators):
        if not 0 <= operator.opcodeIndex < len(codes):
            raise _damaged(path, f"operator {index} has type {operator.opcodeIndex} of {len(codes)}")
    used = [subgraphs[0].inputs, subgraphs[0].outputs, *(o.inputs for o in operators), *(o.outputs for o in operators)]
    for indices in used:
        wrong = [int(i) for i in (() if indices is None else indices) if not -1 <= i < len(tensors)]
        if wrong:
            raise _damaged(path, f"tensor {wrong[0]} of {len(tensors)} is used")
    return model


def _graph(path: Path) -> Graph:
    model = _parse(path)
    subgraph = model.subgraphs[0]
    try:
        tensors = {str(index): _tensor(model, index, path) for index in range(len(subgraph.tensors))}
        operators = tuple(_operator(model, index, tensors) for index in range(len(subgraph.operators or ())))
        outputs = frozenset(str(index) for index in subgraph.outputs)
    except MISFITS as error:
        raise _damaged(path, f"its operators do not fit together ({error})") from error
    return Graph(operators=operators, tensors=tensors, outputs=outputs)


def _tensor(model: Any, index: int, path: Path) -> Tensor:
    tensor = model.subgraphs[0].tensors[index]
    shape = tuple(int(size) for size in (() if tensor.shape is None else tensor.shape))
    if any(size < 0 for size in shape):
        raise _damaged(path, f"tensor {index} has the shape {shape}")
    dtype = _names("TensorType")[tensor.type].lower()
    buffer = model.buffers[tensor.buffer] if tensor.buffer else None
    if buffer is None or tensor.isVariable:
        return Tensor(shape=shape, dtype=dtype)
    # a model of more than 2 GB has its buffers behind the flatbuffer: `offset` and `size` instead of `data`
    size = len(buffer.data) if buffer.data is not None else int(buffer.size) if buffer.offset > 1 else 0
    if not size:
        return Tensor(shape=shape, dtype=dtype)
    needed = math.prod(shape) * BITS.get(dtype, 0) // 8
    if size < needed and tensor.sparsity is None:
        raise _damaged(path, f"tensor {index}, {dtype} {shape}, has {size} of its {needed} bytes")
    return Tensor(shape=shape, dtype=dtype, constant_bytes=size + _index_bytes(tensor.sparsity))


def _index_bytes(sparsity: Any) -> int:
    """Return the bytes that say where the values of a sparse tensor belong."""
    found = 0
    for dimension in (sparsity.dimMetadata if sparsity is not None else None) or ():
        for vector in (dimension.arraySegments, dimension.arrayIndices):
            found += 0 if vector is None else np.asarray(vector.values).nbytes
    return found


def _operator(model: Any, index: int, tensors: Mapping[str, Tensor]) -> Operator:
    subgraph = model.subgraphs[0]
    operator = subgraph.operators[index]
    code = model.operatorCodes[operator.opcodeIndex]
    kind = _names("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]
    if kind == "CUSTOM":
        kind = _text(code.customCode) or kind
    inputs = [str(i) for i in (() if operator.inputs is None else operator.inputs)]
    outputs = tuple(str(i) for i in (() if operator.outputs is None else operator.outputs) if i >= 0)
    name = _text(subgraph.tensors[int(outputs[0])].name) if outputs else f"{kind}_{index}"
    product, provenance = None, module_path(name)
    if kind in PRODUCTS:
        data, weights = (inputs[position] for position in PRODUCTS[kind])
        provenance = module_path(_text(subgraph.tensors[int(weights)].name)) or provenance
        product = _product(kind, (data, weights, outputs[0]), tensors, operator.builtinOptions)
    on_constants = bool(inputs) and all(i == "-1" or tensors[i].constant_bytes is not None for i in inputs)
    return Operator(
        name=name,
        kind=kind,
        inputs=tuple(i for i in inputs if i != "-1"),
        outputs=outputs,
        # of an activation it is a kernel; of a constant, how float16, int8 or sparse weights are kept
        role="dequantize"
        if kind in ("DEQUANTIZE", "DENSIFY") and on_constants
        else "move"
        if kind in MOVES
        else "compute",
        product=product,
        provenance=provenance,
    )


def _product(kind: str, names: tuple[str, str, str], tensors: Mapping[str, Tensor], options: Any) -> Product:
    """Return the multiply-adds; weights are (out, h, w, in), depthwise (1, h, w, out), linear (out, in).

    Layouts: TensorFlow, `tensorflow/compiler/mlir/lite/ir/tfl_ops.td`.
    """
    data, weights, output = (tensors[name] for name in names)
    factor, source, result = (tensor.shape or () for tensor in (weights, data, output))
    is_depthwise = kind == "DEPTHWISE_CONV_2D" or (kind == "CONV_2D" and factor[3] == 1 < source[3])
    if kind == "TRANSPOSE_CONV":
        macs = math.prod(source) * math.prod(factor[:3])
    elif kind == "CONV_2D":
        macs = math.prod(result) * math.prod(factor[1:])
    elif kind == "DEPTHWISE_CONV_2D":
        macs = math.prod(result) * math.prod(factor[1:3])
    elif kind == "CONV_3D":  # (depth, h, w, in, out)
        macs = math.prod(result) * math.prod(factor[:4])
    elif kind == "FULLY_CONNECTED":
        macs = math.prod(result) * factor[1]
    else:
        macs = math.prod(result) * source[-2 if options is not None and options.adjX else -1]
    return Product(data=names[0], weights=names[1], macs=macs, is_depthwise=is_depthwise)
