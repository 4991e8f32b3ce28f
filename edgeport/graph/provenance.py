"""Names for activations that survive every lowering: torch module path plus operator.

A key reads `layer1.0.conv1/conv2d`, `layer1.0/relu`, `layer1.0/relu_1` (the second ReLU of that module's forward),
and `/x` for the network input `x`. It depends on the user's code only, so the same activation has the same key in every
graph made from one network, whatever a runtime calls it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import Graph, Node


def module_path(node: Node) -> str:
    """Return the path of the innermost module whose forward made this node; empty for the network itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(list(stack.values())))[0]
    return str(path).removeprefix("L['self'].").removeprefix("L['self']")


def operator_name(node: Node) -> str:
    """Return the ATen operator's plain name, such as `conv2d`."""
    schema = getattr(node.target, "_schema", None)
    return str(node.target if schema is None else schema.name).split("::")[-1]


def provenance_keys(graph: Graph) -> dict[str, str]:
    """Return node name -> provenance key for every input and operator of a traced graph."""
    keys: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "placeholder":
            keys[node.name] = f"/{node.name}"
        elif node.op == "call_function" and hasattr(node.target, "_schema"):
            key = f"{module_path(node)}/{operator_name(node)}"
            keys[node.name] = key if not seen[key] else f"{key}_{seen[key]}"
            seen[key] += 1
    return keys
