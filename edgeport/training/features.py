"""Feature distillation: the student also learns where in the picture its teacher looks.

Attention maps have no channels, so they compare networks of any width: a pruned student with the network it was cut
from, or a student with another architecture.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.fx.graph import CodeGen

from edgeport.graph.provenance import operator_name
from edgeport.graph.shapes import activation_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import GraphModule

    Size = tuple[int, int]  # height and width of a feature map

READERS = ("conv2d", "mean", "linear", "flatten", "view", "reshape")  # besides pooling: what a stage's end is read by


def attention_map(features: torch.Tensor) -> torch.Tensor:
    """Return where activations are large, (batch, height x width), each row of length 1.

    The sum over channels of squares: Zagoruyko, Komodakis 2017, "Paying More Attention to Attention"
    (arXiv:1612.03928), section 3.1, F with p = 2, normalised as in equation 2.

    Args:
        features: (batch, channels, height, width).
    """
    return torch.nn.functional.normalize(features.float().square().mean(1).flatten(1), dim=1)


def stage_ends(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> dict[Size, str]:
    """Return (height, width) -> name of the last node of that size that a layer or a pooling reads."""
    shapes = activation_shapes(module, example_inputs)
    found: dict[Size, str] = {}
    for node in module.graph.nodes:
        shape = shapes.get(node.name, ())
        is_inside = node.op == "call_function" and len(shape) == 4 and min(shape[2:]) > 1
        if is_inside and any(operator_name(user) in READERS or "pool" in operator_name(user) for user in node.users):
            found[shape[2], shape[3]] = node.name
    return found


def shared_sizes(networks: Sequence[GraphModule], example_inputs: Sequence[torch.Tensor]) -> tuple[Size, ...]:
    """Return the sizes of feature maps at which a stage of every network ends, large ones first."""
    ends = [stage_ends(network, example_inputs) for network in networks]
    shared = set(ends[0]).intersection(*ends[1:])
    return tuple(sorted(shared, reverse=True))


def with_attention(module: GraphModule, example_inputs: Sequence[torch.Tensor], sizes: Sequence[Size]) -> GraphModule:
    """Return a copy that gives the attention map at the end of each of these stages after its outputs."""
    ends = stage_ends(module, example_inputs)
    result = copy.deepcopy(module)
    nodes = {node.name: node for node in result.graph.nodes}
    (output,) = (node for node in result.graph.nodes if node.op == "output")
    with result.graph.inserting_before(output):
        maps = [result.graph.call_function(attention_map, (nodes[ends[size]],)) for size in sizes]
    output.args = ((output.args[0], tuple(maps)),)
    # a traced graph unflattens its results by a recorded form, which has no room for more of them
    result.graph.set_codegen(CodeGen())
    result.recompile()
    return result
