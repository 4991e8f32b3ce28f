"""Which channels must be pruned together: a walk over the traced graph with channel labels.

Filters of convolutions and linear layers get labels, every operator says how labels pass or tie (`rules_*`), and
classes of tied labels that touch the same layers in the same way make a `ChannelGroup`. What an operator does to
channels is either known here or the channels stay, with a sentence that names the operator.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import GraphModule, Node

from edgeport.graph.canonical import attribute
from edgeport.pruning import rules_attention, rules_layers, rules_shapes, rules_values
from edgeport.pruning.heads import head_dimensions
from edgeport.pruning.labels import NOT_PINNED, Axes, Indices, Labels
from edgeport.pruning.operation import (
    NotUnderstoodError,
    Operation,
    arguments,
    concrete_shapes,
    operator_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

RULES: Mapping[str, Callable[[Operation], Any]] = {
    **rules_layers.RULES,
    **rules_attention.RULES,
    **rules_values.RULES,
    **rules_shapes.RULES,
}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """One layer's share of a group.

    Attributes:
        layer: module path (of the parameter's owner).
        parameter: name of the weight in the module.
        dimension: the weight's dimension that counts filters.
        positions: (channels of the group, filters of this layer a channel), indices along that dimension. The second
            size is 1 but for grouped convolutions and the like, where one channel stands for a filter in every group.
        total: filters of the layer.
        is_depthwise: each filter reads only the channel that it is tied to: it adds no writer to the group.
    """

    layer: str
    parameter: str
    dimension: int
    positions: Indices
    total: int
    is_depthwise: bool = False


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that are cut in all these layers at once or in none.

    Attributes:
        name: path of the first layer; with `#2`, `#3`, ... where that layer starts several groups.
        filters: a share a layer, in the order the layers run.
        classes: (channels,) the label class of each channel.
    """

    name: str
    filters: tuple[Filters, ...]
    classes: Indices

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths, in the order the layers run."""
        return tuple(share.layer for share in self.filters)

    @property
    def is_stream(self) -> bool:
        """Whether several layers write the same channels and the results are added, as in a residual network."""
        return sum(not share.is_depthwise for share in self.filters) > 1

    @property
    def channels(self) -> int:
        """How many channels there are to choose from."""
        return int(self.classes.shape[0])


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What `find_groups` knows of a network.

    Attributes:
        groups: what may be pruned.
        left_whole: a sentence for every layer with filters that may not, naming the reason.
        classes: (labels,) class of every label.
        axes: node name -> labels of each dimension of its result (a tuple of them for several results).
    """

    groups: tuple[ChannelGroup, ...]
    left_whole: tuple[str, ...]
    classes: Indices
    axes: Mapping[str, Any]


def find_groups(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> Groups:
    """Return the channel groups of a traced network.

    Args:
        module: the traced network.
        example_inputs: one batch, for shapes.
    """
    walk = _Walk(module, concrete_shapes(module, example_inputs))
    for node in module.graph.nodes:
        walk.visit(node)
    classes = walk.labels.classes()
    pinned = walk.labels.pinned(classes)
    return Groups(
        groups=_groups(walk.layers, classes, pinned),
        left_whole=_left_whole(walk, classes, pinned),
        classes=classes,
        axes={node.name: axes for node, axes in walk.axes.items()},
    )


@dataclass(frozen=True, kw_only=True)
class _Layer:
    name: str
    parameter: str
    dimension: int
    axis: Indices
    is_depthwise: bool


class _Walk:
    """Visits nodes in order and gathers labels and layers."""

    def __init__(self, module: GraphModule, shapes: Mapping[Node, Any]) -> None:
        self.module = module
        self.shapes = shapes
        self.heads = head_dimensions(module, shapes)
        self.labels = Labels()
        self.axes: dict[Node, Any] = {}
        self.layers: list[_Layer] = []
        self._shared: dict[int, Axes] = {}  # by identity: two names of one parameter share their labels
        self._seen: set[tuple[int, int]] = set()

    def visit(self, node: Node) -> None:
        if node.op == "output":
            for used in node.all_input_nodes:
                self._pin(used, "its channels are a network output")
        elif node not in self.shapes:
            return  # a size, a check: nothing that carries channels
        elif node.op == "placeholder":
            self.axes[node] = self._input(node)
        elif node.op == "get_attr":
            self.axes[node] = self._parameter(node)
        else:
            self.axes[node] = self._operator(node)

    def _input(self, node: Node) -> Axes:
        axes = (None, *[self.labels.fresh(size) if size > 1 else None for size in self.shapes[node][1:]])
        for axis in axes:
            self.labels.pin(axis, f"it is joined to network input '{node.name}'")
        return axes[: len(self.shapes[node])]

    def _parameter(self, node: Node) -> Axes:
        value = attribute(self.module, str(node.target))
        if id(value) not in self._shared:
            self._shared[id(value)] = tuple(self.labels.fresh(size) if size > 1 else None for size in value.shape)
        return self._shared[id(value)]

    def _operator(self, node: Node) -> Any:
        named = arguments(node)
        operation = Operation(
            node=node,
            named=named,
            shapes=self.shapes,
            axes=self.axes,
            labels=self.labels,
            produce=self._produce,
            path=_module_path(node),
            heads=self.heads.get(node, frozenset()),
        )
        rule = RULES.get(operator_name(node))
        reason = "is not known to pruning"
        if rule is not None:
            try:
                return rule(operation)
            except NotUnderstoodError as error:
                reason = str(error)
        for used in node.all_input_nodes:
            self._pin(used, f"{operation.title} {reason}")
        return _nothing(self.shapes[node])

    def _produce(self, weight: Node, dimension: int) -> None:
        axis, weight = self.axes[weight][dimension], self._origin(weight)
        if weight.op != "get_attr" or axis is None or not np.array_equal(self.axes[weight][dimension], axis):
            return
        key = (id(attribute(self.module, str(weight.target))), dimension)
        if key not in self._seen:
            self._seen.add(key)
            name = str(weight.target)
            shape = self.shapes[weight]
            self.layers.append(
                _Layer(
                    name=name.removesuffix(".weight"),
                    parameter=name,
                    dimension=dimension,
                    axis=axis,
                    is_depthwise=dimension == 0 and len(shape) > 2 and shape[1] == 1 and _is_grouped(weight),
                )
            )

    def _origin(self, weight: Node) -> Node:
        """Return the parameter that a weight was computed from (standardised, scaled), or the weight itself."""
        found = weight
        while found.op == "call_function" and found.all_input_nodes:
            found = found.all_input_nodes[0]
        return found if found.op == "get_attr" and self.shapes[found] == self.shapes[weight] else weight

    def _pin(self, node: Node, why: str) -> None:
        axes = self.axes.get(node, ())
        for part in axes:
            for axis in part if isinstance(part, tuple) else (part,):
                self.labels.pin(axis, why)


def _is_grouped(weight: Node) -> bool:
    """Whether a convolution reads this weight in groups; its seventh argument counts them."""
    return any(len(user.args) > 6 and user.args[6] not in (1, None) for user in weight.users)


def _nothing(shape: Any) -> Any:
    if shape and isinstance(shape[0], tuple):
        return tuple(_nothing(part) for part in shape)
    return (None,) * len(shape)


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, kind = next(reversed(list(stack.values())))
    return "" if path == kind else str(path).removeprefix("L['self'].").removeprefix("L['self']")


def _groups(layers: list[_Layer], classes: Indices, pinned: Indices) -> tuple[ChannelGroup, ...]:
    """Gather free classes by what they touch: the same layers, the same number of filters in each."""
    touched: dict[int, dict[int, list[int]]] = defaultdict(dict)  # class -> layer index -> positions
    for index, layer in enumerate(layers):
        for position in np.flatnonzero(pinned[layer.axis] == NOT_PINNED):
            touched[int(classes[layer.axis[position]])].setdefault(index, []).append(int(position))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for label, places in touched.items():
        alike[tuple((index, len(positions)) for index, positions in sorted(places.items()))].append(label)
    names: dict[str, int] = defaultdict(int)
    groups = []
    for signature, members in sorted(alike.items()):
        first = layers[signature[0][0]].name
        names[first] += 1
        members.sort(key=lambda label: touched[label][signature[0][0]])
        filters = tuple(
            Filters(
                layer=layers[index].name,
                parameter=layers[index].parameter,
                dimension=layers[index].dimension,
                positions=np.array([touched[label][index] for label in members], dtype=np.int64),
                total=int(layers[index].axis.shape[0]),
                is_depthwise=layers[index].is_depthwise,
            )
            for index, _ in signature
        )
        name = first if names[first] == 1 else f"{first}#{names[first]}"
        groups.append(ChannelGroup(name=name, filters=filters, classes=np.array(members, dtype=np.int64)))
    return tuple(groups)


def _left_whole(walk: _Walk, classes: Indices, pinned: Indices) -> tuple[str, ...]:
    sentences = []
    for layer in walk.layers:
        reasons = pinned[layer.axis]
        total = layer.axis.shape[0]
        for index in sorted(set(reasons.tolist()) - {NOT_PINNED}):
            count = int((reasons == index).sum())
            share = "" if count == total else f"{count} of {total} channels of "
            sentences.append(f"left whole: {share}layer '{layer.name}' because {walk.labels.reasons[index]}")
    return tuple(sentences)
