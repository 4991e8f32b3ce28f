"""Make the static int8 form of a float ONNX graph, in the shape that ONNX Runtime turns into integer kernels.

A multiply-add, addition, concatenation or pooling is written as DequantizeLinear -> operator -> QuantizeLinear, which
ONNX Runtime replaces by one integer operator. What only moves values (slices, pads, reshapes, max pooling) works on the
integers directly: ONNX Runtime has no such replacement for pads and slices, and would compute them in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.quant.affine import Affine, asymmetric, integer_bias, symmetric_weight
from edgeport.quant.onnx_linear import linear_as_gemm
from edgeport.quant.onnx_packing import pack_constants
from edgeport.quant.onnx_placement import (
    NOTHING_QUANTIZED,
    WEIGHTED,
    OnnxGraph,
    attributes,
    is_depthwise,
    layer_keys,
    left_in_float,
    widened_for_bias,
)
from edgeport.quant.weight_grid import PACKED_BITS, kept_bits

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from edgeport.quant.scheme import Scheme
    from edgeport.types import WeightBits

MOVES_VALUES = (
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Gather", "MaxPool", "Pad",
    "Resize",
)  # fmt: skip
COMPUTES = ("Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu")
CLIPS = ("Relu", "Clip")


def quantize(
    graph: OnnxGraph, scheme: Scheme, bits: Mapping[str, WeightBits] | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the int8 form and notes: what stayed in float32, which scales were widened.

    Args:
        graph: the float network.
        scheme: how the file is written.
        bits: provenance key -> bits of a layer's weights; others have what is safe for any layer.
    """
    rewriter = _Rewriter(linear_as_gemm(graph), scheme, bits or {})
    for node in rewriter.graph.model.graph.node:
        rewriter.rewrite(node)
    if not rewriter.weighted:
        return graph.model, (NOTHING_QUANTIZED, *left_in_float(rewriter.in_float))
    return rewriter.finish(), rewriter.notes()


class _Rewriter:
    """Walks the float graph once and writes the int8 graph beside it.

    A value `v` exists as float32 under its own name, as 8-bit integers under `v:int`, or both; each is written when
    first needed. Graph node names hold no colon, so nothing clashes.
    """

    def __init__(self, graph: OnnxGraph, scheme: Scheme, bits: Mapping[str, WeightBits]) -> None:
        self.graph, self.scheme, self.bits = graph, scheme, bits
        self.layers = layer_keys(graph.model, graph.provenance)
        self.packed: set[str] = set()  # weights that fit four bits
        self.integers: type[np.integer] = np.int8 if scheme.activation == "int8" else np.uint8
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.integer: dict[str, Affine] = {}
        self.floating = {value.name for value in graph.model.graph.input} | set(graph.constants)
        self.dequantized: set[str] = set()
        self.absorbed: set[str] = set()  # outputs of operators that became part of the one before
        self.in_float: list[str] = []
        self.widened: dict[str, int] = {}  # layer -> channels
        self.weighted = 0

    def rewrite(self, node: onnx.NodeProto) -> None:
        """Write one node of the float graph."""
        if node.op_type == "Constant" or node.output[0] in self.absorbed:
            return
        node = _spelled_as_pooling(node, self.graph)
        done = (
            (node.op_type in WEIGHTED and self._weighted(node))
            or (node.op_type in MOVES_VALUES and self._moves(node))
            or (node.op_type in CLIPS and self._clip(node))
            or (node.op_type in COMPUTES and self._computes(node))
        )
        if not done:
            self._float(node)

    def finish(self) -> onnx.ModelProto:
        """Return the int8 model."""
        from onnx import helper, numpy_helper

        source = self.graph.model
        for name in (value.name for value in source.graph.output):
            self._as_float(name)
        used = {name for node in self.nodes for name in node.input}
        arrays = self.graph.constants | self.initializers
        graph = helper.make_graph(
            self.nodes,
            source.graph.name,
            list(source.graph.input),
            list(source.graph.output),
            [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
        )
        model = helper.make_model(
            graph, opset_imports=list(source.opset_import), ir_version=source.ir_version, producer_name="edgeport"
        )
        pack_constants(model, self.packed)
        return model

    def notes(self) -> tuple[str, ...]:
        """Return what the report should say."""
        return (*left_in_float(self.in_float), *widened_for_bias(self.widened))

    def _node(self, kind: str, inputs: list[str], outputs: list[str], name: str = "", **options: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name or outputs[0], **options))

    def _constant(self, name: str, array: np.ndarray) -> str:
        """Store a constant under `name`, or return the name under which the same one is stored."""
        content = (str(array.dtype), array.shape, array.tobytes())
        stored = self.stored.setdefault(content, name)
        self.initializers[stored] = array
        return stored

    def _mapping(self, value: str, affine: Affine) -> list[str]:
        scale = self._constant(f"{value}:scale", np.array(affine.scale, np.float32))
        return [scale, self._integer(affine.zero_point)]

    def _integer(self, value: int | NDArray[np.int64]) -> str:
        """Store one integer of the activations' type."""
        return self._constant(f"int:{value}", np.array(value, self.integers))

    def _affine(self, value: str) -> Affine:
        return asymmetric(*self.graph.ranges[value], signed=self.scheme.activation == "int8")

    def _as_float(self, value: str) -> str:
        return value if not value or value in self.floating else self._dequantized(value)

    def _dequantized(self, value: str) -> str:
        """Return what the integers of a value stand for; for a value that is float32 itself, under another name."""
        name = f"{value}:dequantized" if value in self.floating else value
        if name not in self.dequantized:
            self._node("DequantizeLinear", [f"{value}:int", *self._mapping(value, self.integer[value])], [name])
            self.dequantized.add(name)
        return name

    def _can_be_integer(self, value: str) -> bool:
        return value in self.integer or (value in self.graph.ranges and value not in self.graph.constants)

    def _as_integer(self, value: str) -> Affine:
        if value not in self.integer:
            self.integer[value] = self._affine(value)
            self._node("QuantizeLinear", [value, *self._mapping(value, self.integer[value])], [f"{value}:int"])
        return self.integer[value]

    def _result(self, node: onnx.NodeProto) -> tuple[str, Affine | None]:
        """Return the value that a node's result becomes, and its integers; None where it stays float32.

        A ReLU or clip after the node is absorbed where the range of the integers already cuts off what it would.
        A result that only leaves the network stays float32, except a convolution's: its kernel has integer results.
        """
        value = node.output[0]
        reader = self.graph.sole_consumer(value)
        bounds = _clip_bounds(reader, self.graph.constants) if reader is not None else None
        if reader is not None and bounds is not None and reader.output[0] in self.graph.ranges:
            affine = self._affine(reader.output[0])
            half = affine.scale / 2
            if affine.low >= bounds[0] - half and affine.high <= bounds[1] + half:
                return reader.output[0], affine
        only_leaves = value in self.graph.outputs and value not in self.graph.consumers
        if value not in self.graph.ranges or (only_leaves and node.op_type != "Conv"):
            return value, None
        return value, self._affine(value)

    def _emit(self, node: onnx.NodeProto, inputs: list[str], result: tuple[str, Affine | None]) -> None:
        """Write an operator on float32 forms, and the quantizer of its result."""
        value, affine = result
        options = attributes(node)
        if affine is None:
            self._node(node.op_type, inputs, [value], node.name, **options)
            self.floating.add(value)
            return
        self._node(node.op_type, inputs, [f"{value}:real"], node.name, **options)
        self._node("QuantizeLinear", [f"{value}:real", *self._mapping(value, affine)], [f"{value}:int"])
        self.integer[value] = affine
        if value != node.output[0]:
            self.absorbed.add(value)

    def _weighted(self, node: onnx.NodeProto) -> bool:
        axis = _weight_axis(node, self.graph.constants)
        if self.graph.provenance.get(node.output[0]) in self.scheme.raised:
            return False
        result = self._result(node)
        if axis is None or not self._can_be_integer(node.input[0]) or (node.op_type == "Conv" and result[1] is None):
            return False
        weight = self.graph.constants[node.input[1]]
        bias = self.graph.constants[node.input[2]].reshape(-1) if len(node.input) > 2 and node.input[2] else None
        groups = attributes(node).get("group", 1)
        input_scale = self._as_integer(node.input[0]).scale
        bits = self.bits.get(self.layers.get(node.output[0], ""), kept_bits(self.scheme.weight_bits))
        bits = 8 if node.op_type == "Conv" and is_depthwise(weight.shape, groups) else bits
        integers = symmetric_weight(
            weight,
            axis=axis,
            bits=bits,
            per_channel=self.scheme.per_channel,
            bias=bias,
            input_scale=input_scale,
        )
        if integers.widened:
            layer = self.graph.provenance.get(node.output[0], node.name)
            self.widened[layer] = len(integers.widened)
        if bits <= PACKED_BITS:
            self.packed.add(self._constant(f"{node.output[0]}:weight:int", integers.integers))
        inputs = [
            self._dequantized(node.input[0]),
            self._constants_of(node.output[0] + ":weight", integers.integers, integers.scales, axis),
        ]
        if bias is not None:
            steps = integer_bias(bias, input_scale=input_scale, weight_scales=integers.scales)
            inputs.append(
                self._constants_of(node.output[0] + ":bias", steps, np.float32(input_scale) * integers.scales, 0)
            )
        self._emit(node, inputs, result)
        self.weighted += 1
        return True

    def _constants_of(self, name: str, integers: np.ndarray, scales: np.ndarray, axis: int) -> str:
        """Write the dequantizer of a weight or bias and return its result's name."""
        if not self.scheme.per_channel:  # they are all the same
            scales = scales[0]
        zeros = np.zeros_like(scales, integers.dtype)
        parts = [
            self._constant(f"{name}:int", integers),
            self._constant(f"{name}:scale", scales),
            self._constant(f"{zeros.dtype}:{zeros.size}", zeros),
        ]
        options: dict[str, Any] = {"axis": axis} if zeros.ndim else {}
        self._node("DequantizeLinear", parts, [name], **options)
        return name

    def _computes(self, node: onnx.NodeProto) -> bool:
        result = self._result(node)
        if not all(self._can_be_integer(value) for value in node.input) or node.output[0] not in self.graph.ranges:
            return False
        if self._feeds_raised(node.output[0]):
            return False
        for value in node.input:
            self._as_integer(value)
        self._emit(node, [self._dequantized(value) for value in node.input], result)
        return True

    def _feeds_raised(self, value: str) -> bool:
        """Whether a raised layer reads a value, as it is or after operators that only move or clip values."""
        if not self.scheme.raised:
            return False
        readers = self.graph.consumers.get(value, [])
        return any(
            self._feeds_raised(reader.output[0])
            if reader.op_type in (*MOVES_VALUES, *CLIPS)
            else reader.op_type in WEIGHTED and self.graph.provenance.get(reader.output[0]) in self.scheme.raised
            for reader in readers
        )

    def _moves(self, node: onnx.NodeProto) -> bool:
        source, *others = node.input
        computes = node.op_type == "Resize" and attributes(node).get("mode", b"nearest") != b"nearest"
        if source not in self.integer or computes or (node.op_type == "MaxPool" and len(node.output) > 1):
            return False
        affine = self.integer[source]
        if node.op_type == "Pad" and attributes(node).get("mode", b"constant") == b"constant":
            fill = float(self.graph.constants[others[1]]) if len(others) > 1 and others[1] else 0.0
            if not affine.low <= fill <= affine.high:
                return False
            others = [self._as_float(others[0]), self._integer(affine.quantize(fill)), *others[2:]]
        outputs = [f"{value}:int" for value in node.output]
        self._node(node.op_type, [f"{source}:int", *others], outputs, node.name, **attributes(node))
        self.integer |= dict.fromkeys(node.output, affine)
        return True

    def _clip(self, node: onnx.NodeProto) -> bool:
        """Clip the integers themselves: exact, and no step is lost to a second rounding."""
        bounds = _clip_bounds(node, self.graph.constants)
        if node.input[0] not in self.integer or bounds is None:
            return False
        affine = self.integer[node.input[0]]
        inputs = [f"{node.input[0]}:int", *(self._integer(affine.quantize(end)) for end in bounds)]
        self._node("Clip", inputs, [f"{node.output[0]}:int"], node.name)
        self.integer[node.output[0]] = affine
        return True

    def _float(self, node: onnx.NodeProto) -> None:
        if node.op_type in WEIGHTED or any(value in self.integer for value in node.input):
            self.in_float.append(node.op_type)
        for value in node.input:
            self._as_float(value)
        self.nodes.append(self._shielded(node) if node.op_type in WEIGHTED else node)
        self.floating.update(node.output)

    def _shielded(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return a float layer that stays one: its dequantized input passes a clip to the range that it has anyway.

        ONNX Runtime 1.32 quantizes the weights of a Conv or Gemm right between DequantizeLinear and QuantizeLinear by
        itself, one scale for all, and runs it on integers (its graph transformer WeightBiasQuantization).
        """
        import onnx

        value = node.input[0]
        if value in self.floating or value not in self.integer:
            return node
        affine = self.integer[value]
        ends = [np.array(end, np.float32) for end in (affine.low, affine.high)]
        names = [self._constant(f"{value}:{side}", end) for side, end in zip(("low", "high"), ends, strict=True)]
        if f"{value}:clipped" not in self.dequantized:
            self._node("Clip", [value, *names], [f"{value}:clipped"])
            self.dequantized.add(f"{value}:clipped")
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = f"{value}:clipped"
        return copy


def _clip_bounds(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> tuple[float, float] | None:
    """Return between what a ReLU or clip keeps values; None for another operator, or ends that are not constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    names = [*node.input[1:], "", ""][:2]
    if any(name and name not in constants for name in names):
        return None
    low, high = (float(constants[name]) if name else end for name, end in zip(names, (-np.inf, np.inf), strict=True))
    return low, high


def _weight_axis(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> int | None:
    """Return the output channel axis of a node's weight; None where there is no integer form of such a node."""
    if any(name and name not in constants for name in node.input[1:]) or node.op_type == "ConvTranspose":
        return None
    if node.op_type == "Conv":
        return 0
    weight, options = constants[node.input[1]], attributes(node)
    if weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if node.op_type == "MatMul":
        return 1
    axis = 0 if options.get("transB") else 1
    plain = not options.get("transA") and options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0
    fits = len(node.input) < 3 or not node.input[2] or constants[node.input[2]].size == weight.shape[axis]
    return axis if plain and fits else None


def _spelled_as_pooling(node: onnx.NodeProto, graph: OnnxGraph) -> onnx.NodeProto:
    """Return a mean over height and width as GlobalAveragePool, which has an integer kernel; others as they are."""
    from onnx import helper

    if node.op_type != "ReduceMean" or len(node.input) != 2 or len(graph.shape(node.input[0]) or ()) != 4:
        return node
    axes = graph.constants.get(node.input[1])
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3] or not attributes(node).get("keepdims", 1):
        return node
    return helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), name=node.name)
