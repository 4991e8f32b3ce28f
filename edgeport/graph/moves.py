"""Operators that only move values: runtimes keep their results on the integer grid of what was moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeport.graph.provenance import operator_name, provenance_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import GraphModule, Node

MOVES_VALUES = frozenset(
    {
        "alias", "clone", "contiguous", "expand", "flatten", "flip", "index_select", "max_pool1d", "max_pool2d",
        "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "roll", "select", "slice",
        "squeeze", "t", "transpose", "unflatten", "unsqueeze", "upsample_nearest1d", "upsample_nearest2d", "view",
    }
)  # fmt: skip
PADS = ("constant_pad_nd", "pad")


def only_moves(node: Node) -> bool:
    """Whether each value of a node's result is one of its first input's values, or a zero that was padded."""
    if node.op != "call_function":
        return False
    if operator_name(node) in PADS:  # (input, widths, [mode,] value)
        given = (*node.args[2:], *node.kwargs.values())
        return all(value == "constant" or not value for value in given)
    return operator_name(node) in MOVES_VALUES


def on_source_grids(
    module: GraphModule, ranges: Mapping[str, tuple[float, float]], moves: Callable[[Node], bool] = only_moves
) -> dict[str, tuple[float, float]]:
    """Return ranges where values that were only moved have the range of where they were computed.

    Args:
        module: canonical form.
        ranges: provenance key -> (low, high) of activations.
        moves: whether a node's result stays on its input's grid.
    """
    keys = provenance_keys(module.graph)
    found = dict(ranges)
    for node in module.graph.nodes:
        source = keys.get(str(node.args[0]), "") if moves(node) else ""
        if source in found:
            found[keys[node.name]] = found[source]
    return found
