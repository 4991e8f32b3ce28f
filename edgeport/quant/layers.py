"""Convolutions and linear layers of a canonical network: their parts, computing them, their integer weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgeport.graph.canonical import CONVOLUTIONS, attribute
from edgeport.quant.affine import IntegerWeight, WeightBits, symmetric_weight
from edgeport.quant.onnx_placement import is_depthwise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.fx import GraphModule, Node


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
    node: Node,
    weight: torch.Tensor,
    weight_bits: WeightBits,
    *,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
) -> IntegerWeight:
    """Return a layer's weight as the backends round it: a scale an output channel, depthwise layers with 8 bits."""
    bits: WeightBits = 8 if is_depthwise_layer(node, weight) else weight_bits
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
