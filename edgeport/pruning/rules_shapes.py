"""Channel rules of operators that move, join, cut or create positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import Node

from edgeport.pruning.operation import NotUnderstoodError, Operation, operator_name

if TYPE_CHECKING:
    from edgeport.pruning.labels import Axes, Axis, Indices


def reshape(op: Operation) -> Axes:
    """Follow labels through merged and split dimensions.

    (N, C, H, W) -> (N, C*H*W) repeats each label H*W times. C -> (a, b) makes one factor carry the channels and ties
    the others: the factor along which the labels differ already (a flatten undone), the one that counts attention
    heads, else the largest (channel shuffle).
    """
    if np.prod(op.source_shape) != np.prod(op.shape):
        raise NotUnderstoodError("reads its bytes as another type")
    result: list[Axis] = [None] * len(op.shape)
    for sources, targets in blocks(op.source_shape, op.shape):
        labelled = [dim for dim in sources if op.source_axes[dim] is not None]
        for dim in labelled if len(labelled) > 1 else ():
            op.labels.pin(op.source_axes[dim], f"{op.title} merges two dimensions that both carry channels")
        if len(labelled) != 1:
            continue
        sizes = [op.source_shape[dim] for dim in sources]
        place = [-1 if dim == labelled[0] else 1 for dim in sources]
        merged = np.broadcast_to(op.source_axes[labelled[0]].reshape(place), sizes).reshape(-1)  # type: ignore[union-attr]  # labelled
        carrier, axis = _split(op, merged, targets)
        result[targets[carrier]] = axis
    asked = _requested(op)
    if any(axis is not None for axis, size in zip(result, asked, strict=False) if _is_computed(size)) and (
        -1 in asked or sum(map(_is_computed, asked)) > 1
    ):
        raise NotUnderstoodError("computes sizes from other sizes")
    return tuple(result)


def _requested(op: Operation) -> list[Any]:
    """Return the sizes that a view asks for, by dimension of the result."""
    before = op.dimension() if "sizes" in op.named else 0
    return [None] * before + list(op.named.get("size") or op.named.get("shape") or op.named.get("sizes") or ())


def _is_computed(size: Any) -> bool:
    return isinstance(size, Node) and operator_name(size) != "sym_size"


def reshape_as(op: Operation) -> Axes:
    """As `reshape`, with the sizes of another tensor: the two must go on having the same."""
    other = op.axes[op.named["other"]]
    return tuple(op.labels.tie(one, two, op.ties) for one, two in zip(reshape(op), other, strict=True))


def blocks(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Match runs of dimensions with equal products; dimensions of size one belong to no run."""
    ours = [dim for dim, size in enumerate(source) if size != 1]
    theirs = [dim for dim, size in enumerate(target) if size != 1]
    blocks = []
    while ours and theirs:
        one, other = [ours.pop(0)], [theirs.pop(0)]
        while (left := _product(source, one)) != (right := _product(target, other)):
            if left < right:
                one.append(ours.pop(0))
            else:
                other.append(theirs.pop(0))
        blocks.append((one, other))
    return blocks


def _product(shape: tuple[int, ...], dims: list[int]) -> int:
    return int(np.prod([shape[dim] for dim in dims]))


def _split(op: Operation, merged: Indices, targets: list[int]) -> tuple[int, Indices]:
    """Return which of the dimensions `targets` (an index into it) carries the channels, and its labels."""
    sizes = [op.shape[dim] for dim in targets]
    grid = merged.reshape(sizes)

    def line(carrier: int) -> Indices:
        return grid[tuple(slice(None) if dim == carrier else slice(1) for dim in range(len(sizes)))]

    for carrier in range(len(sizes)):
        if (grid == line(carrier)).all():
            return carrier, line(carrier).reshape(-1)
    heads = [index for index, dim in enumerate(targets) if dim in op.heads]
    carrier = max(heads or range(len(sizes)), key=lambda index: sizes[index])
    op.labels.tie(merged, np.broadcast_to(line(carrier), grid.shape).reshape(-1), op.ties)
    return carrier, line(carrier).reshape(-1)


def permute(op: Operation) -> Axes:
    """Reorder."""
    rank = len(op.source_axes)
    order = list(range(rank))
    if "dims" in op.named:
        order = [dim % rank for dim in op.named["dims"]]
    elif "dim0" in op.named:
        one, other = op.named["dim0"] % rank, op.named["dim1"] % rank
        order[one], order[other] = order[other], order[one]
    else:
        order.reverse()  # aten.t
    return tuple(op.source_axes[dim] for dim in order)


def unsqueeze(op: Operation) -> Axes:
    """Insert a dimension of size one."""
    dim = op.named["dim"] % (len(op.source_axes) + 1)
    return (*op.source_axes[:dim], None, *op.source_axes[dim:])


def squeeze(op: Operation) -> Axes:
    """Drop dimensions of size one."""
    rank = len(op.source_axes)
    dims = op.named.get("dim", range(rank))
    chosen = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    dropped = {dim for dim in chosen if op.source_shape[dim] == 1}
    if any(op.source_axes[dim] is not None for dim in dropped):
        raise NotUnderstoodError("drops its only channel")
    return tuple(axis for dim, axis in enumerate(op.source_axes) if dim not in dropped)


def concatenate(op: Operation) -> Axes:
    """Join along one dimension, tie the others; a part without labels must stay as it is."""
    parts: list[Node] = op.named["tensors"]
    rank = len(op.shape)
    dim = op.named["dim"] % rank
    result: list[Axis] = []
    for index in range(rank):
        axes = [op.axes[part][index] for part in parts]
        if index == dim:
            result.append(_joined(op, parts, axes, index))
            continue
        tied = axes[0]
        for axis in axes[1:]:
            tied = op.labels.tie(tied, axis, op.ties)
        result.append(tied)
    return tuple(result)


def _joined(op: Operation, parts: list[Node], axes: list[Axis], dim: int) -> Axis:
    if all(axis is None for axis in axes):
        return None
    filled = []
    for part, axis in zip(parts, axes, strict=True):
        labels = op.labels.fresh(op.shapes[part][dim]) if axis is None else axis
        if axis is None:
            op.labels.pin(labels, op.ties)
        filled.append(labels)
    return np.concatenate(filled)


def stack(op: Operation) -> Axes:
    """Tie all operands and insert a dimension."""
    parts: list[Node] = op.named["tensors"]
    tied = list(op.axes[parts[0]])
    for part in parts[1:]:
        tied = [op.labels.tie(one, other, op.ties) for one, other in zip(tied, op.axes[part], strict=True)]
    tied.insert(op.named["dim"] % len(op.shape), None)
    return tuple(tied)


def pad(op: Operation) -> Axes:
    """Padded channels are constants: labels of their own, so whatever they are added to decides over them."""
    amounts = op.named["pad"]
    axes = list(op.source_axes)
    for index in range(len(amounts) // 2):
        before, after = amounts[2 * index : 2 * index + 2]
        dim = len(axes) - 1 - index
        axis = axes[dim]
        if axis is None or before == after == 0:
            continue
        if op.named.get("mode", "constant") != "constant" or not _naturals(before, after):
            raise NotUnderstoodError("pads channels with other channels")
        axes[dim] = np.concatenate([op.labels.fresh(before), axis, op.labels.fresh(after)])
    return tuple(axes)


def _naturals(*values: Any) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


def cut(op: Operation) -> Axes:
    """A slice of consecutive channels."""
    dim = op.dimension()
    axis = op.source_axes[dim]
    start, end, step = (op.named[name] for name in ("start", "end", "step"))
    if axis is None:
        return op.source_axes
    if step != 1 or isinstance(start, Node) or isinstance(end, Node):
        raise NotUnderstoodError("picks scattered channels")
    return (*op.source_axes[:dim], axis[start:end], *op.source_axes[dim + 1 :])


def select(op: Operation) -> Axes:
    """Picks one position; a picked channel must stay."""
    dim = op.dimension()
    if op.source_axes[dim] is not None:
        raise NotUnderstoodError("picks a single channel")
    return (*op.source_axes[:dim], *op.source_axes[dim + 1 :])


def split(op: Operation) -> tuple[Axes, ...]:
    """Cut into consecutive parts."""
    dim = op.dimension()
    axes = op.source_axes
    if axes[dim] is None:
        return tuple(axes for _ in op.shape)
    ends = np.cumsum([part[dim] for part in op.shapes[op.node]])[:-1]
    return tuple((*axes[:dim], part, *axes[dim + 1 :]) for part in np.split(axes[dim], ends))  # type: ignore[arg-type]  # labelled


def unbind(op: Operation) -> tuple[Axes, ...]:
    """One tensor for each position; a picked channel must stay."""
    dim = op.dimension()
    if op.source_axes[dim] is not None:
        raise NotUnderstoodError("picks single channels")
    return tuple((*op.source_axes[:dim], *op.source_axes[dim + 1 :]) for _ in op.shape)


def repeat(op: Operation) -> Axes:
    """Copies side by side: along the dimension each channel is there several times."""
    times = list(op.named["repeats"])
    front = len(times) - len(op.source_axes)
    result: list[Axis] = [None] * front
    for axis, count in zip(op.source_axes, times[front:], strict=True):
        if axis is not None and not isinstance(count, int):
            raise NotUnderstoodError("repeats channels by a computed number")
        result.append(axis if axis is None else np.tile(axis, count))
    return tuple(result)


def pick(op: Operation) -> Axes:
    """One tensor out of several."""
    return op.axes[op.source][op.node.args[1]]  # type: ignore[no-any-return]  # the axes of one tensor


def expand(op: Operation) -> Axes:
    """Repeated positions are labels of their own; the literal sizes follow them."""
    extra = len(op.shape) - len(op.source_shape)
    result = list(create(op))
    for dim, (axis, size) in enumerate(zip(op.source_axes, op.source_shape, strict=True), start=extra):
        if size != 1 or op.shape[dim] == 1:
            result[dim] = axis
    return tuple(result)


def _literal(op: Operation, dim: int) -> bool:
    return not isinstance(op.named["size"][dim], Node)


def create(op: Operation) -> Axes:
    """A tensor of constants: whatever it meets decides over it."""
    return tuple(op.labels.fresh(size) if size > 1 and _literal(op, dim) else None for dim, size in enumerate(op.shape))


def pixel_shuffle(op: Operation) -> Axes:
    """(N, C*r*r, H, W) -> (N, C, H*r, W*r): r*r neighbouring channels make one."""
    *front, channels, _, _ = op.source_axes
    if channels is None:
        return op.source_axes
    square = int(op.named["upscale_factor"]) ** 2
    first = channels[::square]
    op.labels.tie(channels, np.repeat(first, square), op.ties)
    return (*front, first, None, None)


def pixel_unshuffle(op: Operation) -> Axes:
    """(N, C, H*r, W*r) -> (N, C*r*r, H, W): every channel becomes r*r neighbours."""
    *front, channels, _, _ = op.source_axes
    if channels is None:
        return op.source_axes
    return (*front, np.repeat(channels, int(op.named["downscale_factor"]) ** 2), None, None)


def channel_shuffle(op: Operation) -> Axes:
    """(g, k) positions read as (k, g): every group loses the same positions."""
    channels, groups = op.source_axes[1], int(op.named["groups"])
    if channels is None:
        return op.source_axes
    first = channels[: channels.shape[0] // groups]
    op.labels.tie(channels, np.tile(first, groups), op.ties)
    return (op.source_axes[0], np.repeat(first, groups), *op.source_axes[2:])


RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
RULES: dict[str, Any] = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(("view_as", "reshape_as"), reshape_as),
    **dict.fromkeys(("permute", "transpose", "t"), permute),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), split),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), create),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "cat": concatenate,
    "stack": stack,
    "slice": cut,
    "select": select,
    "getitem": pick,
    "unbind": unbind,
    "repeat": repeat,
    "expand": expand,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
}
