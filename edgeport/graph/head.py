"""The last layer of a classifier: where it is, and how it is cut to some of the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeport.errors import StageError
from edgeport.graph.canonical import CONVOLUTIONS, attribute
from edgeport.graph.provenance import module_path, operator_name
from edgeport.graph.shapes import activation_shapes

aten = torch.ops.aten

LINEAR = aten.linear.default
SOFTMAX = ("softmax", "_softmax", "log_softmax", "_log_softmax")
COPIES = ("alias", "detach", "clone", "contiguous", "dropout")
# Between the layer and the scores; the class dimension must survive them, which its size tells.
LAYOUT = ("flatten", "squeeze", "view", "reshape", "select", "slice", *COPIES)
SIZES = {"view": 1, "reshape": 1}  # operators that spell the sizes of their result -> the argument


@dataclass(frozen=True, kw_only=True)
class Head:
    """The layer that makes the class scores.

    Attributes:
        layer: its module path.
        weight: state-dict name, (classes, ...).
        bias: state-dict name, (classes,); None: the layer has none.
        classes: how many.
        logits: name of the node with the scores before any softmax, (batch, classes).
        path: names of the nodes from the layer to the scores, both included.
    """

    layer: str
    weight: str
    bias: str | None
    classes: int
    logits: str
    path: tuple[str, ...]


def find_head(module: GraphModule, example_inputs: Sequence[torch.Tensor], *, flag: str) -> Head:
    """Return the layer that makes the class scores of a traced network.

    It is a linear layer or a convolution, followed by nothing but a change of layout and a softmax.

    Args:
        module: the network, with one output (batch, classes).
        example_inputs: a batch of one an input.
        flag: who wants to know, for messages.

    Raises:
        StageError: the network has no such layer; the operator in its way is named.
    """
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(output.args) if isinstance(leaf, Node)]
    shapes = activation_shapes(module, example_inputs)
    scores = shapes.get(leaves[0].name, ()) if len(leaves) == 1 else ()
    if len(scores) != 2 or scores[1] < 2:
        found = ", ".join("x".join(map(str, shapes.get(leaf.name, ())[1:])) or "scalar" for leaf in leaves)
        raise StageError(f"{flag} is about class scores, (classes,) a sample; the network gives {found}")
    classes = scores[1]
    node, path, logits = leaves[0], [leaves[0].name], leaves[0].name
    while node.target is not LINEAR and node.target not in CONVOLUTIONS:
        if not _keeps_classes(node, shapes, classes):
            raise _in_the_way(node, flag)
        is_softmax = operator_name(node) in SOFTMAX
        node = node.args[0]  # type: ignore[assignment]  # the operators above take a tensor first
        path.append(node.name)
        logits = node.name if is_softmax else logits
    weight, bias = (node.args[place] if len(node.args) > place else None for place in (1, 2))
    groups = _argument(node, "groups") if node.target in CONVOLUTIONS else 1
    if groups != 1 or _count(shapes[node.name]) != classes or len(node.users) > 1:
        raise _in_the_way(node, flag)
    if not _is_own(module, weight) or not (bias is None or _is_own(module, bias)):
        raise StageError(f"{flag}: the weights of '{module_path(node)}' are computed, or shared with another layer")
    return Head(
        layer=module_path(node),
        weight=str(weight.target),  # type: ignore[union-attr]  # a get_attr node
        bias=None if bias is None else str(bias.target),  # type: ignore[union-attr]  # as above
        classes=classes,
        logits=logits,
        path=tuple(reversed(path)),
    )


def cut_head(module: GraphModule, head: Head, kept: Sequence[int]) -> GraphModule:
    """Return a copy of the network with the scores of some classes only, in the order of `kept`.

    A softmax behind the layer then gives the distribution on the condition that the class is one of them.
    """
    result = copy.deepcopy(module)
    for name in (head.weight, head.bias):
        if name is not None:
            owner, _, last = name.rpartition(".")
            whole = attribute(result, name)
            rows = torch.nn.Parameter(whole.detach()[list(kept)].clone(), requires_grad=whole.requires_grad)
            setattr(result.get_submodule(owner), last, rows)
    constants = {head.weight, head.bias}
    for node in result.graph.nodes:
        if node.name not in head.path and not (node.op == "get_attr" and str(node.target) in constants):
            continue
        _resize(node, head.classes, len(kept))
        place = SIZES.get(operator_name(node)) if node.op == "call_function" else None
        if place is not None:
            sizes = [len(kept) if size == head.classes and isinstance(size, int) else size for size in node.args[place]]
            node.update_arg(place, sizes)
    result.graph.lint()
    result.recompile()
    return result


def logits_of(module: GraphModule, head: Head) -> GraphModule:
    """Return a copy of the network that gives its scores before any softmax, (batch, classes)."""
    result = copy.deepcopy(module)
    (output,) = (node for node in result.graph.nodes if node.op == "output")
    (logits,) = (node for node in result.graph.nodes if node.name == head.logits)
    output.args = ((logits,),)
    result.graph.eliminate_dead_code()
    result.graph.lint()
    result.recompile()
    return result


def _keeps_classes(node: Node, shapes: dict[str, tuple[int, ...]], classes: int) -> bool:
    """Whether an operator only changes the layout of the scores, (1, classes) with further sizes of 1."""
    source = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(source, Node) or len(node.users) > 1:
        return False
    before, after = (shapes.get(name, ()) for name in (source.name, node.name))
    if any(sorted(shape)[-1:] != [classes] or _count(shape) != classes for shape in (before, after)):
        return False
    if operator_name(node) in SOFTMAX:
        return before[int(_argument(node, "dim"))] == classes
    return operator_name(node) in LAYOUT


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _argument(node: Node, name: str) -> Any:
    schema = node.target._schema  # type: ignore[union-attr]  # an ATen operator
    place = [argument.name for argument in schema.arguments].index(name)
    if place < len(node.args):
        return node.args[place]
    return node.kwargs.get(name, schema.arguments[place].default_value)


def _is_own(module: GraphModule, node: object) -> bool:
    """Whether it is a parameter that nothing else reads."""
    if not (isinstance(node, Node) and node.op == "get_attr" and len(node.users) == 1):
        return False
    value = attribute(module, str(node.target))
    names = [name for name, other in module.named_parameters(remove_duplicate=False) if other is value]
    readers = [other for other in module.graph.nodes if other.op == "get_attr" and str(other.target) in names]
    return len(readers) == 1


def _in_the_way(node: Node, flag: str) -> StageError:
    what = f"operator {node.target} in '{module_path(node) or 'forward'}'" if node.op == "call_function" else node.name
    return StageError(
        f"{flag}: the class scores come from {what}; they must come from a linear layer or a 1x1 convolution, with"
        " nothing but flatten, squeeze and softmax after it"
    )


def _resize(node: Node, classes: int, kept: int) -> None:
    """Give the recorded shape (`meta["val"]`) the new size; a symbolic batch stays symbolic."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        shape = [kept if isinstance(size, int) and size == classes else size for size in value.shape]
        node.meta["val"] = value.new_empty(shape)
