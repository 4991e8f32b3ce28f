"""Make the static int8 form of an OpenVINO model, in the shape that its CPU plugin runs in integers.

Activations get FakeQuantize operators where a convolution, a linear layer or an addition after one reads them; weights
become int8 constants with a scale a channel. The plugin's low-precision transformations do the rest when it compiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import Type, opset13  # type: ignore[import-untyped]  # ships no types

from edgeport.quant.affine import Affine, asymmetric, symmetric_weight
from edgeport.quant.onnx_placement import NOTHING_QUANTIZED, Range, is_depthwise, left_in_float
from edgeport.quant.weight_grid import PACKED_BITS, kept_bits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openvino import Model, Node, Output

    from edgeport.quant.scheme import Scheme
    from edgeport.types import WeightBits

WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
MOVES_VALUES = (
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Split", "VariadicSplit", "MaxPool", "Pad",
)  # fmt: skip
CLIPS = ("Relu", "Clamp")

Key = tuple[str, int]


def quantize(
    model: Model,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    *,
    raised: Collection[str] = (),
    bits: Mapping[str, WeightBits] | None = None,
) -> tuple[str, ...]:
    """Quantize a float model in place and return notes: what stayed in float32.

    Args:
        model: constants folded; tensor names are the keys of `ranges`.
        ranges: calibrated (low, high) of activations.
        scheme: how the file is written; depthwise convolutions keep 8 bits, their kernels never add pairs of products.
        raised: names of nodes that stay in float32, and read their input as it was computed.
        bits: of a layer's weights, by its node's name; others have what is safe for any layer.
    """
    placement = _Placement(ranges, is_symmetric=scheme.activation == "int8")
    in_float: list[str] = []
    weighted: list[tuple[Node, int]] = []
    for node in model.get_ordered_ops():
        if node.get_type_name() not in WEIGHTED:
            continue
        axis = _weight_axis(node)
        if axis is not None and _layer_name(node) not in raised and placement.place(node.input_value(0)):
            weighted.append((node, axis))
        else:
            in_float.append(node.get_type_name())
    layers = {node.get_friendly_name() for node, _ in weighted}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Add" and any(_follows(node.input_value(i), layers) for i in (0, 1)):
            placement.place(node.input_value(0), node.input_value(1))
    placement.insert(passing_by=raised)
    for node, axis in weighted:
        own = (bits or {}).get(_layer_name(node), kept_bits(scheme.weight_bits))
        _compress(node, axis, own, per_channel=scheme.per_channel)
    model.validate_nodes_and_infer_types()
    nothing = () if weighted else (NOTHING_QUANTIZED,)
    return (*nothing, *left_in_float(in_float))


class _Placement:
    """Collects the activations that need a quantizer; those that meet in a concatenation share one range."""

    def __init__(self, ranges: Mapping[str, Range], *, is_symmetric: bool) -> None:
        self.ranges, self.is_symmetric = ranges, is_symmetric
        self.wanted: dict[Key, Output] = {}
        self.shared_with: dict[Key, Key] = {}

    def place(self, *values: Output) -> bool:
        """Ask for quantizers on all values, or on none (False) where one of them has no range."""
        found = [self._sources(value) for value in values]
        if any(sources is None for sources in found):
            return False
        for sources in found:
            self._want(sources or [])
        return True

    def insert(self, *, passing_by: Collection[str]) -> None:
        """Write the quantizers; the nodes of these names go on reading the value itself."""
        groups: dict[Key, list[Range]] = {}
        for key, value in self.wanted.items():
            groups.setdefault(self._group(key), []).append(self._range(value) or (0.0, 0.0))
        constants: dict[float, Node] = {}
        for key, value in self.wanted.items():
            members = groups[self._group(key)]
            affine = self._affine(min(low for low, _ in members), max(high for _, high in members))
            ends = [constants.setdefault(end, opset13.constant(np.float32(end))) for end in (affine.low, affine.high)]
            readers = [
                reader
                for reader in value.get_target_inputs()
                if reader.get_node().get_type_name() != "Result" and _layer_name(reader.get_node()) not in passing_by
            ]
            quantizer = opset13.fake_quantize(value, *ends, *ends, levels=256)
            quantizer.set_friendly_name(f"{value.get_node().get_friendly_name()}/quantized")
            for reader in readers:
                reader.replace_source_output(quantizer.output(0))

    def _affine(self, low: float, high: float) -> Affine:
        """Return the integers of a range; symmetric ones, where wanted, keep negative values only where there are any.

        The plugin takes a quantizer as int8 when its range is [-128, 127] steps, and as uint8 with a zero point when it
        is not. A value that is never negative loses nothing as uint8, which has the zero point 0 then.
        """
        if not self.is_symmetric or low >= 0.0:
            return asymmetric(low, high)
        largest = max(-low / 128, high / 127)
        return asymmetric(-128 * largest, 127 * largest, signed=True)

    def _range(self, value: Output) -> Range | None:
        return next((self.ranges[name] for name in sorted(value.get_names()) if name in self.ranges), None)

    def _sources(self, value: Output) -> list[Output] | None:
        """Return where the values that arrive here were computed, past what only moves them; None without a range."""
        node = value.get_node()
        here = [value] if self._range(value) is not None else None
        if node.get_type_name() == "Concat":
            parts = [self._sources(node.input_value(i)) for i in range(node.get_input_size())]
            return here if any(part is None for part in parts) else [source for part in parts for source in part or []]
        if node.get_type_name() in MOVES_VALUES and not _pads_with_other_than_zero(node):
            return self._sources(node.input_value(0)) or here
        return here

    def _want(self, sources: list[Output]) -> None:
        keys = [(source.get_node().get_friendly_name(), source.get_index()) for source in sources]
        self.wanted |= dict(zip(keys, sources, strict=True))
        for key in keys[1:]:
            self.shared_with[self._group(key)] = self._group(keys[0])

    def _group(self, key: Key) -> Key:
        above = self.shared_with.get(key, key)
        return key if above == key else self._group(above)


def _layer_name(node: Node) -> str:
    """Return the ONNX node's name: OpenVINO calls a bias `NAME` and the layer `NAME/WithoutBiases`."""
    return str(node.get_friendly_name().partition("/")[0])


def _pads_with_other_than_zero(node: Node) -> bool:
    if node.get_type_name() != "Pad" or node.get_attributes()["pad_mode"] != "constant" or node.get_input_size() < 4:
        return False
    fill = node.input_value(3).get_node()
    return fill.get_type_name() != "Constant" or bool(np.any(fill.data != 0))


def _follows(value: Output, layers: set[str]) -> bool:
    """Whether a value is a quantized layer's result, with or without bias and activation."""
    node = value.get_node()
    while node.get_type_name() in CLIPS or (node.get_type_name() == "Add" and _is_constant(node, 1)):
        node = node.input_value(0).get_node()
    return node.get_friendly_name() in layers


def _is_constant(node: Node, index: int) -> bool:
    return bool(node.input_value(index).get_node().get_type_name() == "Constant")


def _weight_axis(node: Node) -> int | None:
    """Return the output channel axis of a layer's weight (its first, for groups); None where the plugin has no form."""
    if not _is_constant(node, 1):
        return None
    kind = node.get_type_name()
    weight = node.input_value(1).get_node()
    if kind == "MatMul":
        if len(weight.shape) != 2 or node.get_attributes()["transpose_a"]:
            return None
        return 0 if node.get_attributes()["transpose_b"] else 1
    return {"Convolution": 0, "GroupConvolution": 0, "ConvolutionBackpropData": 1}.get(kind)


def _compress(node: Node, axis: int, bits: WeightBits, *, per_channel: bool) -> None:
    """Replace a layer's weight by int8 constant -> Convert -> Multiply by a scale a channel, or one scale.

    Four bits are widened to int8 first, which the plugin does when it compiles: given int4 -> float32, its convolutions
    compute in float32 (OpenVINO 2026.4: 2.0 times the latency of int8; widened, the same).
    """
    weight = node.input_value(1).get_node().data
    shape = weight.shape
    groups = 1
    if node.get_type_name() == "GroupConvolution":
        groups = shape[0]
        weight = weight.reshape(-1, *shape[2:])  # (groups, out, in, ...) -> (groups * out, in, ...)
    if node.get_type_name() == "GroupConvolution" and is_depthwise(weight.shape, groups):
        bits = 8
    integers = symmetric_weight(weight, axis=axis, bits=bits, per_channel=per_channel)
    scales = [-1 if index == axis else 1 for index in range(weight.ndim)]
    steps = integers.scales.reshape(scales)
    if not per_channel:
        steps = integers.scales[0]
    elif node.get_type_name() == "GroupConvolution":
        steps = steps.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))
    stored = integers.integers.reshape(shape)
    if bits <= PACKED_BITS:
        constant = opset13.convert(opset13.constant(stored, dtype=Type.i4), "i8")
    else:
        constant = opset13.constant(stored)
    real = opset13.multiply(opset13.convert(constant, "f32"), opset13.constant(steps))
    node.input(1).replace_source_output(real.output(0))
