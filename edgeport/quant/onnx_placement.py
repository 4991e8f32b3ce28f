"""Which values of a float ONNX graph have a calibrated range, and what quantizers need to know of its nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import LoweringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

    from edgeport.graph.float_graph import FloatGraph

Range = tuple[float, float]

RANGE_OF_OPERATOR: dict[str, Range] = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
POOLING = ("GlobalAveragePool", "AveragePool", "ReduceMean")  # how the exporter may spell adaptive average pooling
NOTHING_QUANTIZED = "no convolution or linear layer with constant weights: nothing was quantized"
NAMED_LAYERS = 3  # how many of many layers a sentence of the report names
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class OnnxGraph:
    """A float ONNX graph with lookups.

    Attributes:
        model: the float network; never changed.
        ranges: value name -> calibrated (low, high); also of values that only the exporter made.
        provenance: value name -> provenance key.
    """

    model: onnx.ModelProto
    ranges: Mapping[str, Range]
    provenance: Mapping[str, str]

    @classmethod
    def from_float_graph(cls, graph: FloatGraph) -> OnnxGraph:
        """Collect the ranges of a calibrated float network, by ONNX value name."""
        return cls(graph.onnx, value_ranges(graph), graph.provenance)

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Name -> array of every initializer and Constant node."""
        from onnx import numpy_helper

        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return found

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Value name -> the nodes that read it, in order."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in dict.fromkeys(node.input):
                found[name].append(node)
        return found

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the network's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    def sole_consumer(self, name: str) -> onnx.NodeProto | None:
        """Return the only node that reads a value; None when there are more, or it is an output of the network."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a value's sizes (batch of one); None where they are not known."""
        return self._shapes.get(name)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        graph = self.model.graph
        found = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
                found[value.name] = tuple(size.dim_value for size in kind.shape.dim)
        return found


def value_ranges(graph: FloatGraph) -> dict[str, Range]:
    """Return ONNX value name -> calibrated (low, high).

    Values are named as graph nodes are; where the exporter spells adaptive average pooling as another operator under a
    name of its own, that value is found by what it reads. Operators that can only yield one range (Sigmoid) have that.
    """
    ranges: dict[str, Range] = {}
    produced = {name: node for node in graph.onnx.graph.node for name in node.output}
    pools = {
        node.args[0].name: graph.ranges[node.name]
        for node in graph.module.graph.nodes
        if "adaptive_avg_pool" in str(node.target) and node.name in graph.ranges and node.name not in produced
    }
    for name, node in produced.items():
        if node.op_type in RANGE_OF_OPERATOR:
            ranges[name] = RANGE_OF_OPERATOR[node.op_type]
        elif node.op_type in POOLING and node.input[0] in pools:
            ranges[name] = pools[node.input[0]]
    return ranges | dict(graph.ranges)


def layer_keys(model: onnx.ModelProto, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return value name -> provenance key of the layer that computes it, of every convolution and linear layer.

    A linear layer on more than two dimensions is a MatMul and an Add, and the Add has its name.
    """
    adds = {name: node.output[0] for node in model.graph.node if node.op_type == "Add" for name in node.input}
    found = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            value = node.output[0]
            key = provenance.get(value) or provenance.get(adds.get(value, ""))
            if key is not None:
                found[value] = key
    return found


def value_names(graph: FloatGraph) -> dict[str, str]:
    """Return provenance key -> ONNX value name of every activation that the export kept, in execution order."""
    produced = {name: node for node in graph.onnx.graph.node for name in node.output}
    pools = {node.input[0]: name for name, node in produced.items() if node.op_type in POOLING}
    names = {}
    for node in graph.module.graph.nodes:
        if node.name not in graph.provenance:
            continue
        if node.op == "placeholder" or node.name in produced:
            names[graph.provenance[node.name]] = node.name
        elif "adaptive_avg_pool" in str(node.target) and node.args[0].name in pools:
            names[graph.provenance[node.name]] = pools[node.args[0].name]
    return names


def refuse_random(graph: FloatGraph) -> None:
    """Raise where an operator draws random numbers: no two runs of such a network agree.

    Raises:
        LoweringError: naming the operator and its layer.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.onnx.graph.initializer}
    for node in graph.onnx.graph.node:
        training = constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        if node.op_type in RANDOM or (training is not None and bool(numpy_helper.to_array(training))):
            layer = graph.provenance.get(node.output[0], node.name)
            raise LoweringError(f"operator {node.op_type} of '{layer}' draws random numbers at inference")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return attribute name -> value."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def is_depthwise(weight_shape: Iterable[int], groups: int) -> bool:
    """Whether a convolution with a weight `(out, in / groups, ...)` has one input and one output channel a group."""
    out_channels, in_channels, *_ = weight_shape
    return groups > 1 and in_channels == 1 and out_channels == groups


def left_in_float(operators: Iterable[str]) -> tuple[str, ...]:
    """Return the sentence for the report that names operators without an integer form, or nothing."""
    counts = sorted(Counter(operators).items())
    if not counts:
        return ()
    return ("left in float32: " + ", ".join(f"{count} {name}" for name, count in counts),)


def widened_for_bias(channels: Mapping[str, int]) -> tuple[str, ...]:
    """Return the sentence for the report that names layers (-> number of channels) with widened scales, or nothing."""
    if not channels:
        return ()
    first = ", ".join(list(channels)[:NAMED_LAYERS]) + (", ..." if len(channels) > NAMED_LAYERS else "")
    total = sum(channels.values())
    plural = "" if total == 1 else "s"
    return (f"weight scale widened so that the bias fits 32 bits: {total} channel{plural} of {first}",)
