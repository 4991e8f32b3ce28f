"""Channel rules of operators between two activations: attention, products of matrices, picking by an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.fx import Node

from edgeport.pruning.operation import NotUnderstoodError, Operation

if TYPE_CHECKING:
    from edgeport.pruning.labels import Axes, Axis


def product(op: Operation) -> Axes:
    """`x @ parameter` is a linear layer with a transposed weight; other products treat the front as a batch.

    Attention heads are such a front dimension: a head stands or falls in both operands. Rows of the left and columns
    of the right pass. What is summed over must not carry channels: an activation may be other than zero where its
    channel is cut, and no weight stands between the two.
    """
    left, right = op.node.args[:2]
    if not isinstance(left, Node) or not isinstance(right, Node) or min(map(len, _shapes(op, left, right))) < 2:
        raise NotUnderstoodError("multiplies vectors")
    if right.op == "get_attr" and len(op.shapes[right]) == 2:
        inputs, outputs = op.axes[right]
        op.labels.tie(op.source_axes[-1], inputs, op.ties)
        op.produce(right, 1)
        return (*op.source_axes[:-1], outputs)
    for axis in (op.axes[left][-1], op.axes[right][-2]):
        op.labels.pin(axis, f"{op.title} multiplies two activations")
    return (*_batched(op, (left, right), trailing=2), op.axes[left][-2], op.axes[right][-1])


def attention(op: Operation) -> Axes:
    """`softmax(q k^T / sqrt(width) + mask) v`, head by head: whole heads can go, their width and the tokens stay."""
    query, key, value = (op.named[name] for name in ("query", "key", "value"))
    mask = op.named.get("attn_mask")
    if op.named.get("enable_gqa"):
        raise NotUnderstoodError("shares keys between heads")
    operands = [query, key, value] + ([mask] if isinstance(mask, Node) else [])
    for operand in operands:
        for axis in op.axes[operand][-2:]:
            op.labels.pin(axis, f"{op.title} works on whole heads and all tokens")
    front = _batched(op, operands, trailing=2)
    return (*front, None, None)


def _shapes(op: Operation, *nodes: Node) -> list[tuple[int, ...]]:
    return [op.shapes[node] for node in nodes]


def _batched(op: Operation, operands: Any, *, trailing: int) -> list[Axis]:
    """Tie the dimensions before the last `trailing` ones, as broadcasting lines them up."""
    rank = len(op.shape) - trailing
    result: list[Axis] = [None] * rank
    seen = [False] * rank
    for operand in operands:
        shape, axes = op.shapes[operand][:-trailing], op.axes[operand][:-trailing]
        for index, (size, axis) in enumerate(zip(shape, axes, strict=True), start=rank - len(shape)):
            if size == 1 != op.shape[index]:
                continue
            result[index] = op.labels.tie(result[index], axis, op.ties) if seen[index] else axis
            seen[index] = True
    return result


def index(op: Operation) -> Axes:
    """`x[:, i, j]`, as tables of position biases are read: what is picked by number must stay, the rest passes."""
    indices = list(op.named["indices"])
    picked = [dim for dim, chosen in enumerate(indices) if chosen is not None]
    for chosen in (indices[dim] for dim in picked):
        for axis in op.axes[chosen]:
            op.labels.pin(axis, f"{op.title} picks by it")
    for dim in picked:
        op.labels.pin(op.source_axes[dim], f"{op.title} picks single channels")
    rank = max(len(op.shapes[indices[dim]]) for dim in picked)
    rest = [axis for dim, axis in enumerate(op.source_axes) if dim not in picked]
    start = picked[0] if picked == list(range(picked[0], picked[-1] + 1)) else 0
    if len(rest) + rank != len(op.shape):
        raise NotUnderstoodError("picks by a mask")
    return (*rest[:start], *[None] * rank, *rest[start:])


def index_select(op: Operation) -> Axes:
    """As `index`, along one dimension."""
    dim = op.dimension()
    op.labels.pin(op.source_axes[dim], f"{op.title} picks single channels")
    return (*op.source_axes[:dim], None, *op.source_axes[dim + 1 :])


RULES: dict[str, Any] = {
    "matmul": product,
    "mm": product,
    "bmm": product,
    "scaled_dot_product_attention": attention,
    "index": index,
    "index_select": index_select,
}
