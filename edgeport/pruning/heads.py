"""Which dimensions of a tensor may count attention heads: asked before the walk, by looking back from every attention.

A projection's C features become (3, heads, width) or the like in one reshape. Only one of these factors can carry the
channels that are cut, and which one is right shows later: attention treats heads apart from each other, as a batch,
but sums over the width. So dimensions are followed backwards from attention to the reshape that made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeport.pruning.operation import arguments, operator_name
from edgeport.pruning.rules_shapes import RESHAPES, blocks
from edgeport.pruning.rules_values import ALONG_ONE_DIMENSION, ELEMENTWISE, LIKE_THE_FIRST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule, Node

SAME_DIMENSIONS = {
    *ELEMENTWISE,
    *ALONG_ONE_DIMENSION,
    *LIKE_THE_FIRST,
    *("cat", "slice", "split", "split_with_sizes", "chunk", "layer_norm", "rms_norm", "linear", "getitem", "expand"),
}
ATTENTION = ("scaled_dot_product_attention", "matmul")


def head_dimensions(module: GraphModule, shapes: Mapping[Node, Any]) -> dict[Node, frozenset[int]]:
    """Return the dimensions of a node's result that attention treats as a batch, counted from the front.

    Args:
        module: the traced network.
        shapes: result shape of every node.
    """
    found: dict[Node, frozenset[int]] = {}
    for node in reversed(module.graph.nodes):
        if node not in shapes:
            continue
        if operator_name(node) in ATTENTION and len(shapes[node]) > 3:
            for operand in node.all_input_nodes[:3]:
                if operand in shapes and len(shapes[operand]) == len(shapes[node]):
                    found.setdefault(operand, frozenset(range(len(shapes[node]) - 2)))
        elif node in found:
            _follow(node, found, shapes)
    return found


def _follow(node: Node, found: dict[Node, frozenset[int]], shapes: Mapping[Node, Any]) -> None:
    """Say which dimensions of the operands became the node's."""
    name, named = operator_name(node), arguments(node)
    sources = [source for source in node.all_input_nodes if source in shapes]
    if not sources:
        return
    rank, dims = _rank(shapes[sources[0]]), found[node]
    if name in ("permute", "transpose"):
        order = list(range(rank))
        if "dims" in named:
            order = [dimension % rank for dimension in named["dims"]]
        else:
            one, other = named["dim0"] % rank, named["dim1"] % rank
            order[one], order[other] = order[other], order[one]
        found.setdefault(sources[0], frozenset(order[dim] for dim in dims))
    elif name in ("unbind", "select"):
        removed = named["dim"] % rank
        found.setdefault(sources[0], frozenset(dim + (removed <= dim) for dim in dims))
    elif name == "unsqueeze":
        inserted = named["dim"] % (rank + 1)
        found.setdefault(sources[0], frozenset(dim - (inserted < dim) for dim in dims if dim != inserted))
    elif name in RESHAPES:
        for ours, theirs in blocks(shapes[sources[0]], shapes[node]):
            if dims.issuperset(theirs):  # batch and heads in one dimension, as torch's own MultiheadAttention has them
                found[sources[0]] = found.get(sources[0], frozenset()) | set(ours)
    elif name in SAME_DIMENSIONS:
        for source in sources:
            if _rank(shapes[source]) == _rank(shapes[node]):
                found.setdefault(source, dims)


def _rank(shape: Any) -> int:
    return len(shape[0]) if shape and isinstance(shape[0], tuple) else len(shape)
