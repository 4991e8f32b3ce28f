"""One node of a traced graph as the channel rules see it: named arguments, concrete shapes, channel labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule, Interpreter, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from edgeport.pruning.labels import Axes, Labels

Shape = tuple[int, ...]


class NotUnderstoodError(Exception):
    """A rule met a use of its operator that it does not cover; the message completes `operator X ...`.

    Never reaches a user: `find_groups` catches it and leaves the channels whole.
    """


def operator_name(node: Node) -> str:
    """Return `conv2d` for `aten.conv2d.default`; an in-place `relu_` is `relu`; empty for anything but an operator."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function":
        return ""
    name = schema.name.split("::")[-1] if schema is not None else getattr(node.target, "__name__", "")
    return str(name).rstrip("_")


def arguments(node: Node) -> dict[str, Any]:
    """Return every argument of an operator by its name in the schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)
    named = {argument.name: argument.default_value for argument in schema.arguments}
    named.update(zip(named, node.args, strict=False))
    return named | dict(node.kwargs)


def set_argument(node: Node, name: str, value: Any) -> None:
    """Replace one argument, wherever the node keeps it."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]  # an OpOverload
    index = names.index(name)
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


class _Shapes(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[Node, Shape | tuple[Shape, ...]] = {}

    def run_node(self, n: Node) -> Any:  # fx's own signature
        result = super().run_node(n)
        if hasattr(result, "shape"):
            self.shapes[n] = tuple(result.shape)
        elif isinstance(result, (tuple, list)) and n.op != "output":
            self.shapes[n] = tuple(tuple(part.shape) for part in result if hasattr(part, "shape"))
        return result


def concrete_shapes(
    module: GraphModule, example_inputs: Sequence[torch.Tensor]
) -> dict[Node, Shape | tuple[Shape, ...]]:
    """Run the network once and return each node's result shape (a tuple of shapes where it returns several tensors)."""
    import torch

    recorder = _Shapes(module)
    with torch.no_grad():
        recorder.run(*example_inputs)
    return recorder.shapes


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a rule gets.

    Attributes:
        node: the node in the traced graph.
        named: its arguments by schema name.
        shapes: result shape of every node.
        axes: channel labels of every node before this one (a tuple of them where a node returns several tensors).
        labels: where labels come from and ties go to.
        produce: call it with a weight node, the dimension of its filters and their labels.
        path: module path of the layer, for messages.
        heads: dimensions of the result that may count attention heads.
    """

    node: Node
    named: Mapping[str, Any]
    shapes: Mapping[Node, Any]
    axes: Mapping[Node, Any]
    labels: Labels
    produce: Callable[[Node, int], None]
    path: str
    heads: frozenset[int]

    @property
    def title(self) -> str:
        """The operator and its layer, as reports name them."""
        return f"operator {self.node.target} in '{self.path or 'forward'}'"

    @property
    def ties(self) -> str:
        """Reason for a pin by something without labels."""
        return f"{self.title} joins it to something whose channels are fixed"

    @property
    def source(self) -> Node:
        """The first argument."""
        return self.node.args[0]  # type: ignore[return-value]  # rules are only called for tensor operators

    @property
    def source_axes(self) -> Axes:
        """Labels of the first argument."""
        return self.axes[self.source]  # type: ignore[no-any-return]  # single tensor

    @property
    def source_shape(self) -> Shape:
        """Shape of the first argument."""
        return self.shapes[self.source]  # type: ignore[no-any-return]  # single tensor

    @property
    def shape(self) -> Shape:
        """Shape of the result."""
        return self.shapes[self.node]  # type: ignore[no-any-return]  # single tensor

    def dimension(self, name: str = "dim") -> int:
        """Return a dimension argument, counted from the front of the first argument."""
        return int(self.named[name]) % max(1, len(self.source_shape))
