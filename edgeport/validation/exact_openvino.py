"""The form of a quantized OpenVINO .xml that cannot saturate (see `exact`)."""

from __future__ import annotations

import sys
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeport.errors import ConfigError, MissingPackageError
from edgeport.quant.openvino_quantize import MOVES_VALUES
from edgeport.validation.exact import can_saturate, halves

if TYPE_CHECKING:
    from openvino import Model, Node, Output  # type: ignore[import-untyped]  # ships no types

_GROUPED = ("GroupConvolution", "GroupConvolutionBackpropData")  # weights (groups, ...)
# operator -> the weight's input and output axis, without the groups
_AXES = {
    "Convolution": (1, 0),
    "GroupConvolution": (1, 0),
    "ConvolutionBackpropData": (0, 1),
    "GroupConvolutionBackpropData": (0, 1),
}


def write(path: Path, out: Path, on_integers: Container[str]) -> tuple[str, ...]:
    """Write the exact form to `out` and return the rewritten layers' names; nothing is written where there are none.

    Args:
        path: the file.
        out: where the exact form goes.
        on_integers: names of the layers that the runtime runs on integers; the others stay as they are.

    Raises:
        ConfigError: no OpenVINO file.
        MissingPackageError: openvino is not installed.
    """
    model = _load(path)
    layers = []
    for node in model.get_ordered_ops():
        integers = _integers(node)
        if integers is None or node.get_friendly_name() not in on_integers or not _is_quantized(node.input_value(0)):
            continue
        weight = integers.data
        grouped = weight if node.get_type_name() in _GROUPED else weight[None]
        groups = grouped.shape[0]
        axis, out_axis = _axes(node)
        is_depthwise = groups > 1 and grouped.shape[1:3] == (1, 1)
        if not is_depthwise and any(can_saturate(part, axis=out_axis) for part in grouped):
            _double(node, grouped, axis)
            layers.append(node.get_friendly_name())
    if layers:
        import openvino

        model.validate_nodes_and_infer_types()
        openvino.save_model(model, out, compress_to_fp16=False)
    return tuple(layers)


def input_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Return input name -> the range that a FakeQuantize takes it from."""
    found = {}
    for node in _load(path).get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or node.input_value(0).get_node().get_type_name() != "Parameter":
            continue
        ends = [float(np.asarray(node.input_value(place).get_node().data).ravel()[0]) for place in (1, 2)]
        for name in node.input_value(0).get_names():
            found[name] = (ends[0], ends[1])
    return found


def _load(path: Path) -> Model:
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # openvino then takes its own silent stub
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[openvino]'"
        ) from error
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise ConfigError(f"'{path}' is not a whole OpenVINO file") from error


def _integers(node: Node) -> Node | None:
    """Return the int8 constant of a layer whose weight is constant -> Convert -> Multiply by scales; else None."""
    if node.get_type_name() not in _AXES and node.get_type_name() != "MatMul":
        return None
    scaled = node.input_value(1).get_node()
    if scaled.get_type_name() != "Multiply":
        return None
    real = scaled.input_value(0).get_node()
    if real.get_type_name() != "Convert":
        return None
    integers = real.input_value(0).get_node()
    is_int8 = integers.get_type_name() == "Constant" and integers.get_element_type().get_type_name() == "i8"
    return integers if is_int8 else None


def _is_quantized(value: Output) -> bool:
    """Whether a value is a quantizer's, past operators that only move values: then the layer runs on integers."""
    node = value.get_node()
    if node.get_type_name() == "Concat":
        return all(_is_quantized(node.input_value(place)) for place in range(node.get_input_size()))
    if node.get_type_name() in MOVES_VALUES:
        return _is_quantized(node.input_value(0))
    return bool(node.get_type_name() == "FakeQuantize")


def _axes(node: Node) -> tuple[int, int]:
    """Return a layer's input and output axis in its weight without the groups."""
    if node.get_type_name() == "MatMul":
        return (1, 0) if node.get_attributes()["transpose_b"] else (0, 1)
    return _AXES[node.get_type_name()]


def _double(node: Node, grouped: NDArray[Any], axis: int) -> None:
    """Give a layer every input channel twice, and each half of its weights `(groups, ...)`."""
    from openvino import opset13

    groups = grouped.shape[0]
    weight = np.concatenate(halves(grouped), axis=axis + 1)
    own = np.arange(groups * grouped.shape[axis + 1]).reshape(groups, -1)
    indices = np.concatenate([own, own], axis=1).ravel()
    channel_axis = -1 if node.get_type_name() == "MatMul" else 1
    doubled = opset13.gather(
        node.input_value(0), opset13.constant(indices.astype(np.int64)), opset13.constant(np.int64(channel_axis))
    )
    scales = node.input_value(1).get_node().input_value(1)
    stored = opset13.constant(weight if node.get_type_name() in _GROUPED else weight[0])
    real = opset13.multiply(opset13.convert(stored, "f32"), scales)
    node.input(0).replace_source_output(doubled.output(0))
    node.input(1).replace_source_output(real.output(0))
