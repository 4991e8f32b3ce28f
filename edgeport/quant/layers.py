"""Convolutions and linear layers of a canonical network: their parts, computing them, their integer weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from edgeport.graph.canonical import CONVOLUTIONS, LAYERS, attribute, is_constant
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import IntegerWeight, symmetric_weight
from edgeport.quant.onnx_placement import is_depthwise
from edgeport.quant.weight_grid import kept_bits
from edgeport.types import TRAINED_BITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.fx import GraphModule, Node

    from edgeport.types import WeightBits


SMALL_SHARE = 0.1  # of a network's weights


def weighted_nodes(module: GraphModule) -> list[Node]:
    """Return the convolutions and linear layers with constant weights, in order."""
    return [
        node for node in module.graph.nodes if node.target in LAYERS and all(is_constant(arg) for arg in node.args[1:3])
    ]


def layer_bits(module: GraphModule, weight_bits: WeightBits) -> dict[str, WeightBits]:
    """Return provenance key -> bits of every layer's weights in a file whose weights have `weight_bits`.

    Depthwise layers keep 8: their kernels add no pairs of products, and they have few weights. Of fewer than 7 bits,
    layers that share their weights keep 7, and so do the first and last ones, with 4 bits only where they are small.
    Agreement on tune images, 4 bits rounded to nearest: ResNet-20 95.5 %, with the first in 4 bits too 94.9, the last
    94.7; ResNet-8 93.8, 93.0 and 91.8. EfficientNet-Lite0 loses nothing by its last layer, which is 28 % of it, and
    14 points by depthwise ones, which are 4 %.

    Args:
        module: canonical form.
        weight_bits: of the file.
    """
    keys = provenance_keys(module.graph)
    nodes = weighted_nodes(module)
    wider: set[str] = set()
    if kept_bits(weight_bits) != weight_bits:
        sizes = {node.name: weight_of(module, node).numel() for node in nodes}
        most = SMALL_SHARE * sum(sizes.values()) if weight_bits not in TRAINED_BITS else math.inf
        wider = {name for name in _at_the_edges(module) if sizes[name] <= most} | _sharing(nodes)
    return {
        keys[node.name]: 8
        if is_depthwise_layer(node, weight_of(module, node))
        else kept_bits(weight_bits)
        if node.name in wider
        else weight_bits
        for node in nodes
    }


def _at_the_edges(module: GraphModule) -> set[str]:
    """Return the names of layers that an input reaches, or whose result leaves, with no other layer between."""
    layers = {node.name for node in weighted_nodes(module)}
    fed: set[str] = set()  # values that an input reaches without a layer
    first: set[str] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(source.name in fed for source in node.all_input_nodes):
            (first if node.name in layers else fed).add(node.name)
    leaving: set[str] = set()
    last: set[str] = set()
    for node in reversed(module.graph.nodes):
        if node.op == "output" or any(reader.name in leaving for reader in node.users):
            (last if node.name in layers else leaving).add(node.name)
    return first | last


def _sharing(nodes: list[Node]) -> set[str]:
    """Return the names of layers whose weight another reads too."""
    weights = [str(node.args[1].target) for node in nodes]  # type: ignore[union-attr]  # get_attr nodes
    return {node.name for node, weight in zip(nodes, weights, strict=True) if weights.count(weight) > 1}


def weight_of(module: GraphModule, node: Node) -> torch.Tensor:
    """Return a layer's weight, `(out, in / groups, ...)`."""
    return attribute(module, str(node.args[1].target)).detach()  # type: ignore[union-attr]  # a get_attr node


def bias_of(module: GraphModule, node: Node) -> torch.Tensor | None:
    """Return a layer's bias, `(out,)`; None where it has none."""
    if len(node.args) < 3 or node.args[2] is None:
        return None
    return attribute(module, str(node.args[2].target)).detach()  # type: ignore[union-attr]  # as above


def groups_of(node: Node) -> int:
    """Return in how many groups of channels a layer computes."""
    return int(str(node.args[6])) if node.target in CONVOLUTIONS and len(node.args) > 6 else 1


def is_depthwise_layer(node: Node, weight: torch.Tensor) -> bool:
    """Whether a layer has one input and one output channel a group."""
    return node.target in CONVOLUTIONS and is_depthwise(weight.shape, groups_of(node))


def compute(node: Node, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return a layer's output for another input, weight and bias."""
    function: Any = node.target
    result: torch.Tensor = function(value, weight, bias, *node.args[3:])
    return result


def channel_dimension(output: torch.Tensor, weight: torch.Tensor) -> int:
    """Return the dimension of the channels in an output: before the spatial ones; of a linear layer, the last."""
    return output.dim() - weight.dim() + 1


def integer_weight(
    weight: torch.Tensor,
    bits: WeightBits,
    *,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
) -> IntegerWeight:
    """Return a layer's weight as the backends round it to its own bits: a scale an output channel."""
    return symmetric_weight(weight.float().numpy(), axis=0, bits=bits, bias=bias, input_scale=input_scale)


def on_grid(weight: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return a weight as its integers stand for it, the largest of each channel as it was.

    So a backend finds the same scale, and from it the same integers.

    Args:
        weight: `(out, ...)` float32.
        integers: shape of the weight.
        scales: `(out,)` float32.
    """
    rows = weight.reshape(len(weight), -1).abs()
    is_peak = (rows == rows.amax(1, keepdim=True)).reshape(weight.shape)
    return torch.where(is_peak, weight, real_weight(integers, scales))


def real_weight(integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the reals that integers `(out, ...)` with a scale an output channel `(out,)` stand for, float32."""
    return integers.float() * scales.reshape(-1, *[1] * (integers.dim() - 1))
