"""Reads OpenVINO files: an .xml that describes the graph, and its weights beside it in a .bin.

Provenance is the friendly name that the PyTorch front end gives (`__module.layer1.0.conv1/...`); files converted from
ONNX have none.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any

from edgeport.errors import ConfigError, MissingPackageError
from edgeport.formats import ExecutedOp, Interface, TensorInfo, file_bytes
from edgeport.formats.operators import Graph, Operator, Product, Role, Tensor, costs_of, signless

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from edgeport.types import OpCost

# where input channels a group and kernel lie in the weights' shape, (group,) out, in, ...: the rest is in the output
CONVOLUTIONS = {"Convolution": 1, "GroupConvolution": 2}
# (group,) in, out, ...: the first sizes are in the input
TRANSPOSED = {"ConvolutionBackpropData": 1, "GroupConvolutionBackpropData": 2}
MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool"})
EPILOGUES = frozenset({"Relu", "Clamp", "Add", "Subtract", "Multiply"})
SUPPORTING = frozenset({"Const", "Input", "Output", "Parameter", "Result"})  # layer types that compute nothing
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "boolean": "bool"}


def read_costs(path: Path) -> tuple[OpCost, ...]:
    """Return a row an operator, in execution order, with batch one.

    A convolution or product counts as int8 when its data comes through FakeQuantize (or from eight-bit integers) and
    its weights are eight-bit constants or go through FakeQuantize.

    Raises:
        ConfigError: a file is missing, damaged or no OpenVINO file, or leaves other sizes than the batch open.
        MissingPackageError: openvino is not installed.
    """
    model = _read(path)
    _fix_batch(model, path)
    tensors: dict[str, Tensor] = {}
    roles: dict[str, Role] = {}
    operators = []
    outputs: set[str] = set()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        for index, port in enumerate(node.outputs()):
            tensors[_key(node, index)] = _tensor(port, node.data.nbytes if kind == "Constant" else None)
        if kind in {"Constant", "Parameter"}:
            continue
        inputs = tuple(_key(port.get_node(), port.get_index()) for port in _sources(node))
        if kind == "Result":
            outputs.update(inputs)
            continue
        roles[node.get_name()] = _role(node, kind, roles)
        operators.append(
            Operator(
                name=node.get_friendly_name(),
                kind=kind,
                inputs=inputs,
                outputs=tuple(_key(node, index) for index in range(node.get_output_size())),
                role=roles[node.get_name()],
                product=_product(node, kind, inputs, path),
                provenance=module_path(node.get_friendly_name()),
            )
        )
    return costs_of(Graph(operators=operators, tensors=tensors, outputs=frozenset(outputs)))


def read_interface(path: Path) -> Interface:
    """Return inputs and outputs; OpenVINO gives integers at a file's edge no scale.

    Raises:
        ConfigError: a file is missing, damaged or no OpenVINO file.
        MissingPackageError: openvino is not installed.
    """
    model = _read(path)
    return Interface(inputs=tuple(map(_info, model.inputs)), outputs=tuple(map(_info, model.outputs)))


def executed_operators(path: Path) -> tuple[ExecutedOp, ...]:
    """Return the operators of the compiled model, on this processor with one thread and float layers kept in float32.

    Raises:
        ConfigError: a file is missing, damaged or no OpenVINO file, or the runtime refuses it.
        MissingPackageError: openvino is not installed.
    """
    model = _read(path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        runtime = _openvino().Core().compile_model(model, "CPU", options).get_runtime_model()
    except RuntimeError as error:
        raise ConfigError(f"OpenVINO cannot compile '{path}': {_reason(error)}") from error
    products = {node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"}
    found = []
    for node in runtime.get_ordered_ops():
        info = node.get_rt_info()
        said = {key: str(info[key].astype(str)) for key in _SAID if key in info}
        kind = said.get("layerType", node.get_type_name())
        if kind in SUPPORTING:
            continue
        layers = tuple(name for name in said.get("originalLayersNames", "").split(",") if name)
        if kind == "Subgraph" and products.intersection(layers):
            found += _fused_products(layers, products, said.get("primitiveType", ""))
            continue
        found.append(
            ExecutedOp(
                name=node.get_friendly_name(),
                kind=kind,
                dtype=signless(_dtype(said.get("runtimePrecision", ""))),
                layers=layers,
                implementation=said.get("primitiveType", ""),
                provenance=next((place for name in layers if (place := module_path(name))), None),
            )
        )
    return tuple(found)


def _fused_products(layers: tuple[str, ...], products: Container[str], implementation: str) -> list[ExecutedOp]:
    """Return the linear layers of one generated kernel, which with AVX-512 takes whole chains of small ones.

    It states one precision, that of its output. A product of integers is the one that is scaled only behind it: that is
    how OpenVINO's low-precision transformations mark it.
    """
    return [
        ExecutedOp(
            name=name,
            kind="FullyConnected",  # what it is called where it has a kernel of its own
            dtype="int8" if f"{name}/DequantizationMultiply" in layers else "float32",
            layers=(name,),
            implementation=implementation,
            provenance=module_path(name),
        )
        for name in layers
        if name in products
    ]


_SAID = ("layerType", "runtimePrecision", "originalLayersNames", "primitiveType")


def module_path(friendly_name: str) -> str | None:
    """Return the torch module path in a friendly name: `__module.layer1.0.bn1/aten::add` -> `layer1.0.bn1`."""
    match = re.match(r"__module\.([^/]+)/", friendly_name)
    return match[1] if match else None


def _openvino() -> Any:
    # no telemetry: without this package openvino takes its own silent stub
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not importable
    try:
        import openvino  # type: ignore[import-untyped]  # ships no types
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"package '{error.name}', which reads OpenVINO files, is not installed: pip install 'edgeport[openvino]'"
        ) from error
    return openvino


def _reason(error: BaseException) -> str:
    """Return the sentence of OpenVINO's message that says what is wrong; its lines begin with source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not re.match(r"(Exception from|Check ')", line)]
    return (told or lines or [type(error).__name__])[-1].rstrip(".!")


def _read(path: Path) -> Any:
    openvino = _openvino()
    content = file_bytes(path)
    if b"<net" not in content[:4096]:
        raise ConfigError(f"'{path}' is not an OpenVINO file: no <net> element at its start")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ConfigError(f"'{path}' has no weights: '{weights.name}' must lie beside it")
    try:
        return openvino.Core().read_model(path, weights)
    except RuntimeError as error:
        raise ConfigError(
            f"'{path}' and its .bin are not a sound OpenVINO file: {_reason(error)}; write or copy both again"
        ) from error


def _fix_batch(model: Any, path: Path) -> None:
    """Give an open batch dimension the size one, in place."""
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        if shape.is_dynamic:
            sizes = _sizes(shape)
            if not sizes or -1 in sizes[1:]:
                raise ConfigError(
                    f"'{path}': input '{_info(port).name}' has the shape {sizes}: operators can be counted only "
                    "when no size but the batch is open"
                )
            shapes[port] = [1, *sizes[1:]]
    if shapes:
        try:
            model.reshape(shapes)
        except RuntimeError as error:
            raise ConfigError(f"'{path}' does not take a batch of one: {_reason(error)}") from error


def _sizes(shape: Any) -> tuple[int, ...]:
    """Return the sizes of a partial shape, -1 where open; empty when not even the rank is known."""
    if shape.rank.is_dynamic:
        return ()
    return tuple(-1 if size.is_dynamic else size.get_length() for size in shape)


def _dtype(precision: str) -> str:
    """Return numpy's name of an OpenVINO element type: `f32`, `i8`, `u8`, ..."""
    return DTYPES.get(precision) or re.sub(r"^u(\d+)$", r"uint\1", re.sub(r"^i(\d+)$", r"int\1", precision))


def _info(port: Any) -> TensorInfo:
    names = port.get_names()
    return TensorInfo(
        name=min(names) if names else port.get_node().get_friendly_name(),
        shape=_sizes(port.get_partial_shape()),
        dtype=_dtype(port.get_element_type().get_type_name()),
    )


def _tensor(port: Any, constant_bytes: int | None) -> Tensor:
    sizes = _sizes(port.get_partial_shape())
    is_known = not port.get_partial_shape().is_dynamic
    return Tensor(
        shape=sizes if is_known else None,
        dtype=_dtype(port.get_element_type().get_type_name()),
        constant_bytes=constant_bytes,
    )


def _sources(node: Any) -> list[Any]:
    return [port.get_source_output() for port in node.inputs()]


def _key(node: Any, index: int) -> str:
    return f"{node.get_name()}:{index}"  # unlike a friendly name it is unique


def _role(node: Any, kind: str, roles: dict[str, Role]) -> Role:
    """Return how the CPU plug-in treats a node; `roles` holds those of the nodes before it, by name."""
    if kind == "FakeQuantize":
        return "quantize" if node.get_attributes()["levels"] <= 256 else "compute"
    sources = _sources(node)
    before = [port.get_node() for port in sources]
    if kind == "Convert":
        return "dequantize" if _dtype(sources[0].get_element_type().get_type_name()) in _PACKED else "compute"
    if kind in {"Subtract", "Multiply"} and roles.get(before[0].get_name()) == "dequantize":
        return "dequantize"
    if kind in MOVES:
        return "move"
    if kind == "Concat":
        return "join"
    is_alone = sum(other.get_type_name() != "Constant" for other in before) == 1
    return "epilogue" if kind in EPILOGUES and is_alone else "compute"


_PACKED = frozenset({"int4", "uint4", "int8", "uint8", "float16", "bfloat16"})  # formats that constants are kept in


def _product(node: Any, kind: str, inputs: tuple[str, ...], path: Path) -> Product | None:
    """Return the multiply-adds (layouts: OpenVINO operation set 1, Convolution, GroupConvolution, MatMul)."""
    if kind not in CONVOLUTIONS and kind not in TRANSPOSED and kind != "MatMul":
        return None
    result, data, weights = (_sizes(port.get_partial_shape()) for port in (node.output(0), *_sources(node)[:2]))
    if any(not shape or -1 in shape for shape in (result, data, weights)):
        raise ConfigError(f"'{path}': {kind} '{node.get_friendly_name()}' has an open shape and cannot be counted")
    is_depthwise = False
    if kind in CONVOLUTIONS:
        macs = math.prod(result) * math.prod(weights[CONVOLUTIONS[kind] :])
        is_depthwise = kind == "GroupConvolution" and weights[2] == 1
    elif kind in TRANSPOSED:
        macs = math.prod(data) * math.prod(weights[TRANSPOSED[kind] :])
        is_depthwise = kind == "GroupConvolutionBackpropData" and weights[1] == 1
    else:
        transposed = node.get_attributes()["transpose_a"] and len(data) > 1
        macs = math.prod(result) * data[-2 if transposed else -1]
    return Product(data=inputs[0], weights=inputs[1], macs=macs, is_depthwise=is_depthwise)
