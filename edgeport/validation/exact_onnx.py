"""The form of a quantized .onnx that cannot saturate (see `exact`)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.quant.onnx_placement import is_depthwise
from edgeport.validation.exact import can_saturate, halves

if TYPE_CHECKING:
    import onnx

# operator -> places of activation and weight among its inputs; the first three take them through DequantizeLinear
_PLACES = {
    "Conv": (0, 1),
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer with integer weights and activations.

    Attributes:
        node: the operator.
        activation: name of the integer activation.
        reader: the DequantizeLinear between that and the operator; None where the operator takes integers.
        weight: its integers.
        weight_reader: as `reader`.
    """

    node: onnx.NodeProto
    activation: str
    reader: onnx.NodeProto | None
    weight: NDArray[Any]
    weight_reader: onnx.NodeProto | None

    @property
    def name(self) -> str:
        """The node's name, or that of its output."""
        return self.node.name or self.node.output[0]


def write(path: Path, out: Path, on_integers: Container[str]) -> tuple[str, ...]:
    """Write the exact form to `out` and return the rewritten layers' names; nothing is written where there are none.

    Args:
        path: the file.
        out: where the exact form goes.
        on_integers: names of the layers that the runtime runs on integers; the others stay as they are.

    Raises:
        ConfigError: no ONNX file.
        MissingPackageError: onnx is not installed.
        StageError: the weights of a layer that can saturate have a zero point.
    """
    model = _load(path)
    running = (layer for layer in _layers(model) if layer.reader is None or layer.name in on_integers)
    layers = [layer for layer in running if _can_saturate(layer)]
    for index, layer in enumerate(layers):
        _double(model, layer, f"exact{index}")
    if layers:
        out.write_bytes(model.SerializeToString(deterministic=True))
    return tuple(layer.name for layer in layers)


def input_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Return input name -> the range that a QuantizeLinear takes it from."""
    from onnx import numpy_helper

    graph = _load(path).graph
    constants = {value.name: value for value in graph.initializer}
    inputs = {value.name for value in graph.input}
    found = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in inputs or len(node.input) < 3:
            continue
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        limits = np.iinfo(zero.dtype)
        ends = [(float(end) - float(zero)) * float(scale) for end in (limits.min, limits.max)]
        found[node.input[0]] = (ends[0], ends[1])
    return found


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[onnxruntime]'"
        ) from error
    try:
        return onnx.load_from_string(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"'{path}' is not an ONNX file") from error


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    from onnx import numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}

    def integer(name: str) -> tuple[str, onnx.NodeProto | None]:
        """Return the integer value behind a DequantizeLinear and that node; the value itself where there is none."""
        node = producers.get(name)
        return (node.input[0], node) if node is not None and node.op_type == "DequantizeLinear" else (name, None)

    for node in model.graph.node:
        if node.op_type not in _PLACES:
            continue
        data, factor = _PLACES[node.op_type]
        activation, reader = integer(node.input[data])
        stored, weight_reader = integer(node.input[factor])
        is_integer = node.op_type not in ("Conv", "MatMul", "Gemm")
        if stored not in constants or activation in constants or (reader is None) != is_integer:
            continue
        if (weight_reader is None) != is_integer:
            continue
        weight = numpy_helper.to_array(constants[stored])
        if weight.dtype != np.int8 or weight.ndim < 2:
            continue
        zero = _zero_point(node, weight_reader, factor, constants)
        layer = _Layer(node=node, activation=activation, reader=reader, weight=weight, weight_reader=weight_reader)
        if zero is not None and np.any(zero != 0) and _can_saturate(layer):
            raise StageError(f"layer '{node.name}' has int8 weights with a zero point; give them symmetric scales")
        yield layer


def _can_saturate(layer: _Layer) -> bool:
    axis, out_axis, _, groups = _axes(layer)
    if groups > 1 and is_depthwise((layer.weight.shape[out_axis], layer.weight.shape[axis]), groups):
        return False
    return can_saturate(layer.weight, axis=out_axis)


def _zero_point(
    node: onnx.NodeProto, reader: onnx.NodeProto | None, factor: int, constants: Mapping[str, Any]
) -> NDArray[Any] | None:
    from onnx import numpy_helper

    place = {"ConvInteger": 3, "MatMulInteger": 3, "QLinearConv": 5, "QLinearMatMul": 5}.get(node.op_type, 2)
    names = (reader or node).input
    name = names[place] if len(names) > place else ""
    return numpy_helper.to_array(constants[name]) if name in constants else None


def _axes(layer: _Layer) -> tuple[int, int, int, int]:
    """Return the weight's input and output axis, the activation's channel axis, and the groups of the layer."""
    import onnx

    node = layer.node
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        return 1, 0, 1, int(values.get("group", 1))
    if node.op_type == "Gemm":
        is_transposed = bool(values.get("transB", 0))
        return int(is_transposed), 1 - int(is_transposed), 0 if values.get("transA", 0) else 1, 1
    return layer.weight.ndim - 2, layer.weight.ndim - 1, -1, 1


def _double(model: onnx.ModelProto, layer: _Layer, name: str) -> None:
    """Give a layer every input channel twice, and each half of its weights."""
    from onnx import helper, numpy_helper

    axis, _, channel_axis, groups = _axes(layer)
    first, second = halves(layer.weight)
    own = np.arange(layer.weight.shape[axis] * groups).reshape(groups, -1)
    weight = np.concatenate([first, second], axis=axis)
    indices = np.concatenate([own, own], axis=1).ravel()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ascontiguousarray(weight), f"{name}:weight"),
            numpy_helper.from_array(indices.astype(np.int64), f"{name}:channels"),
        ]
    )
    data, factor = _PLACES[layer.node.op_type]
    doubled = f"{name}:doubled"
    chosen = [layer.node.input[data], f"{name}:channels"]
    added = [helper.make_node("Gather", chosen, [doubled], name=f"{name}:gather", axis=channel_axis)]
    if layer.reader is not None:  # the reals, quantized again: ONNX Runtime wants both halves of a pair side by side
        values = [doubled, *layer.reader.input[1:]]
        added.append(helper.make_node("QuantizeLinear", values, [f"{name}:int"], name=f"{name}:quantize"))
        added.append(_copied(layer.reader, f"{name}:int", f"{name}:real"))
        doubled = f"{name}:real"
    layer.node.input[data] = doubled
    layer.node.input[factor] = f"{name}:weight"
    if layer.weight_reader is not None:
        added.append(_copied(layer.weight_reader, f"{name}:weight", f"{name}:weight_real"))
        layer.node.input[factor] = f"{name}:weight_real"
    at = next(index for index, node in enumerate(model.graph.node) if node == layer.node)
    for node in reversed(added):
        model.graph.node.insert(at, node)


def _copied(reader: onnx.NodeProto, source: str, target: str) -> onnx.NodeProto:
    """Return the same DequantizeLinear from and to other values."""
    copy = type(reader)()
    copy.CopyFrom(reader)
    copy.name, copy.input[0], copy.output[0] = f"{target}:reader", source, target
    return copy
