"""Cut channels out of a traced network: smaller parameters, and every literal size in the graph that counted them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgeport.graph.canonical import attribute
from edgeport.pruning.operation import arguments, operator_name, set_argument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgeport.pruning.groups import Groups
    from edgeport.pruning.labels import Axes, Axis

    Alive = NDArray[np.bool_]

STALE = ("tensor_meta", "example_value")  # shapes under other names that nobody refreshes


def prune_channels(module: GraphModule, groups: Groups, kept: Mapping[str, Sequence[int]]) -> GraphModule:
    """Return a new network without the channels that `kept` does not list; `module` stays as it is.

    Args:
        module: the network that `groups` was found in.
        groups: what `find_groups` returned for it.
        kept: group name -> channels that stay, indices into the group; a group that is not named stays whole.

    Raises:
        ValueError: an unknown group, a bad index, or a layer that would lose all its filters.
    """
    alive = alive_labels(groups, kept)
    result = copy.deepcopy(module)
    for node in list(result.graph.nodes):
        axes = groups.axes.get(node.name)
        if axes is None:
            continue
        _refresh(node, axes, alive)
        rewrite = REWRITES.get(operator_name(node))
        if rewrite is not None:
            rewrite(node, groups.axes, alive)
    _slice_attributes(result, groups, alive)
    result.graph.lint()
    result.recompile()
    return result


def alive_labels(groups: Groups, kept: Mapping[str, Sequence[int]]) -> Alive:
    """Return for every label whether it stays.

    Raises:
        ValueError: as `prune_channels`.
    """
    known = {group.name: group for group in groups.groups}
    alive_class = np.ones(groups.classes.shape[0], dtype=bool)
    for name, indices in kept.items():
        if name not in known:
            raise ValueError(f"no channel group '{name}'; there are {sorted(known)}")
        group = known[name]
        if sorted(set(indices)) != list(indices) or (
            indices and not 0 <= min(indices) <= max(indices) < group.channels
        ):
            raise ValueError(f"group '{name}': kept must be ascending indices below {group.channels}, not {indices}")
        alive_class[group.classes] = False
        alive_class[group.classes[list(indices)]] = True
    return alive_class[groups.classes]


def count(axis: Axis, alive: Alive) -> int:
    """Return how many positions of a labelled axis stay."""
    return 0 if axis is None else int(alive[axis].sum())


def _slice_attributes(module: GraphModule, groups: Groups, alive: Alive) -> None:
    """Cut every parameter and buffer, once for each tensor: one that has two names stays one."""
    used = {
        str(node.target): groups.axes[node.name]
        for node in module.graph.nodes
        if node.op == "get_attr" and node.name in groups.axes  # a subgraph has none
    }
    values = {path: attribute(module, path) for path in used}
    values |= dict(module.named_parameters(remove_duplicate=False))
    values |= dict(module.named_buffers(remove_duplicate=False))
    axes = {id(values[path]): path_axes for path, path_axes in used.items()}
    done: dict[int, torch.Tensor] = {}
    for path, value in values.items():
        if id(value) not in axes:
            continue
        if id(value) not in done:
            done[id(value)] = _sliced(value, path, axes[id(value)], alive)
        owner, _, name = path.rpartition(".")
        setattr(module.get_submodule(owner), name, done[id(value)])


def _sliced(value: torch.Tensor, path: str, axes: Axes, alive: Alive) -> torch.Tensor:
    result = value.detach()
    for dimension, axis in enumerate(axes):
        if axis is None or alive[axis].all():
            continue
        if not alive[axis].any():
            raise ValueError(f"nothing would be left of dimension {dimension} of '{path}'")
        result = result.index_select(dimension, torch.from_numpy(np.flatnonzero(alive[axis])).to(result.device))
    if result.shape == value.shape:
        return value
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(result, requires_grad=value.requires_grad)
    return result


def _refresh(node: Node, axes: Any, alive: Alive) -> None:
    """Give the recorded shapes (`meta["val"]`) the new sizes; symbolic ones such as the batch stay symbolic."""
    for key in STALE:
        node.meta.pop(key, None)
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        node.meta["val"] = _resized(value, axes, alive)
    elif isinstance(value, (tuple, list)):
        node.meta["val"] = type(value)(
            _resized(part, part_axes, alive) for part, part_axes in zip(value, axes, strict=True)
        )


def _resized(value: torch.Tensor, axes: Axes, alive: Alive) -> torch.Tensor:
    shape = [
        size if axis is None else size * count(axis, alive) // axis.shape[0]
        for size, axis in zip(value.shape, axes, strict=True)
    ]
    return value if shape == list(value.shape) else value.new_empty(shape)


def _convolution(node: Node, axes: Mapping[str, Any], alive: Alive) -> None:
    """A depthwise convolution has as many groups as channels."""
    named = arguments(node)
    filters, inputs = axes[named["weight"].name][:2]
    groups = named["groups"]
    if groups == 1:
        return
    transposed = operator_name(node).startswith("conv_transpose")
    if inputs is None and filters is not None and (not transposed or filters.shape[0] == groups):
        multiplier = filters.shape[0] // groups
        set_argument(node, "groups", count(filters, alive) // multiplier)


def _pad(node: Node, axes: Mapping[str, Any], alive: Alive) -> None:
    amounts = list(arguments(node)["pad"])
    result: Axes = axes[node.name]
    for index in range(len(amounts) // 2):
        axis = result[len(result) - 1 - index]
        before, after = amounts[2 * index : 2 * index + 2]
        if axis is not None and (before or after):
            inside = axis.shape[0] - after
            amounts[2 * index] = count(axis[:before], alive)
            amounts[2 * index + 1] = count(axis[inside:], alive)
    set_argument(node, "pad", amounts)


def _cut(node: Node, axes: Mapping[str, Any], alive: Alive) -> None:
    named = arguments(node)
    source: Axes = axes[node.all_input_nodes[0].name]
    axis = source[named["dim"] % len(source)]
    if axis is None or alive[axis].all():
        return
    start, end, _ = slice(named["start"], named["end"]).indices(axis.shape[0])
    set_argument(node, "start", count(axis[:start], alive))
    set_argument(node, "end", count(axis[:end], alive))


def _split(node: Node, axes: Mapping[str, Any], alive: Alive) -> None:
    """Parts of unequal size need their sizes spelled out."""
    source: Axes = axes[node.all_input_nodes[0].name]
    dim = arguments(node)["dim"] % len(source)
    axis = source[dim]
    if axis is None or alive[axis].all():
        return
    sizes = [count(part[dim], alive) for part in axes[node.name]]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args = (node.args[0], sizes, dim)
    node.kwargs = {}


def _sizes(node: Node, axes: Mapping[str, Any], alive: Alive) -> None:
    """Literal sizes of a view, an expansion or a tensor of constants."""
    named = arguments(node)
    name = next((name for name in ("size", "shape", "sizes") if name in named), None)
    if name is None:
        return
    result: Axes = axes[node.name]
    first = named["dim"] % (len(result) - len(named[name]) + 1) if name == "sizes" else 0
    sizes = list(named[name])
    for index, size in enumerate(sizes):
        axis = result[first + index]
        if axis is None or size == -1 or alive[axis].all():
            continue
        if isinstance(size, int):
            sizes[index] = count(axis, alive)
        elif operator_name(size) != "sym_size":
            sizes[index] = -1  # batch * heads: whatever is left
    set_argument(node, name, sizes)


REWRITES: Mapping[str, Callable[[Node, Mapping[str, Any], Alive], None]] = {
    **{f"{kind}{rank}d": _convolution for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)},
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unflatten", "expand"), _sizes),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), _sizes),
    "slice": _cut,
}
