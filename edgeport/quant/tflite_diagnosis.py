"""Say which operator of a network the TFLite converter failed on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch.fx import Graph, GraphModule, Node

from edgeport.graph.provenance import operator_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeport.graph.float_graph import FloatGraph


def explain(error: BaseException, graph: FloatGraph, converts: Callable[[GraphModule], bool]) -> str:
    """Return one line that names the operator and its layer.

    Args:
        error: what the converter raised.
        graph: the network.
        converts: whether a part of the network, with the same inputs, can be converted.
    """
    # the message may quote the line of generated code that was being lowered: `median = torch.ops.aten.median.dim(...)`
    quoted = re.findall(r"^\s*(\w+) = torch\.ops\.", str(error), re.MULTILINE)
    name = next((name for name in reversed(quoted) if name in graph.provenance), None) or _first_failing(
        graph, converts
    )
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reason = (reason[:1].lower() + reason[1:300]).rstrip(".")
    if name is None:
        return f"tflite: the converter failed: {reason}"
    node = next(node for node in graph.module.graph.nodes if node.name == name)
    return f"tflite cannot express operator '{operator_name(node)}' of layer '{graph.provenance[name]}': {reason}"


def _first_failing(graph: FloatGraph, converts: Callable[[GraphModule], bool]) -> str | None:
    """Return the first operator without which the network converts, by bisection; None in an empty network."""
    nodes = [
        node.name for node in graph.module.graph.nodes if node.name in graph.provenance and node.op != "placeholder"
    ]
    low, high = 0, len(nodes)  # nodes[:low] converts, nodes[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if converts(_prefix(graph.module, set(nodes[:middle]))):
            low = middle
        else:
            high = middle
    return nodes[low] if nodes else None


def _prefix(module: GraphModule, kept: set[str]) -> GraphModule:
    """Return the network with only these operators (and `getitem` on their results), all ends as outputs."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in module.graph.nodes:
        is_source = node.op in ("placeholder", "get_attr")
        is_reached = all(operand in copies for operand in node.all_input_nodes)
        if (
            node.op != "output"
            and is_reached
            and (is_source or node.name in kept or not hasattr(node.target, "_schema"))
        ):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copy for node, copy in copies.items() if not copy.users and node.op == "call_function"))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
