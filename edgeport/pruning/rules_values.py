"""Channel rules of operators without parameters that keep positions: elementwise, pooling, resizing, reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeport.pruning.operation import NotUnderstoodError, Operation, operator_name

if TYPE_CHECKING:
    from torch.fx import Node

    from edgeport.pruning.labels import Axes, Axis

ELEMENTWISE = """
    _to_copy abs add addcdiv addcmul alias atan bitwise_not celu clamp clamp_max clamp_min clone contiguous cos
    detach div dropout elu eq erf exp expand_as expm1 feature_dropout floor fmod ge gelu gt hardshrink hardsigmoid
    hardswish hardtanh le leaky_relu lerp log log1p log_sigmoid logical_not lt maximum minimum mish mul ne neg pow
    reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sigmoid sign silu sin softplus softshrink softsign
    sqrt square sub tanh tanhshrink threshold to where
""".split()  # noqa: SIM905  # one name a line would be a page
WINDOWS = {
    **{f"{kind}_pool{rank}d": rank for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for rank in (1, 2, 3)},
    **{f"_adaptive_avg_pool{rank}d": rank for rank in (2, 3)},
    "upsample_nearest1d": 1,
    "upsample_linear1d": 1,
    "upsample_nearest2d": 2,
    "upsample_nearest_exact2d": 2,
    "_upsample_nearest_exact2d": 2,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2,
    "upsample_nearest3d": 3,
    "upsample_trilinear3d": 3,
}
REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp", "prod", "any", "all")
LIKE_THE_FIRST = ("type_as", "zeros_like", "ones_like", "full_like")
ALONG_ONE_DIMENSION = ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "flip", "roll")


def elementwise(op: Operation) -> Axes:
    """Tie the operands position by position; a dimension of size one that is broadcast ties nothing."""
    rank = len(op.shape)
    result: list[Axis] = [None] * rank
    seen = [False] * rank
    for operand in _operands(op):
        shape, axes = op.shapes[operand], op.axes[operand]
        for index, axis in enumerate(axes, start=rank - len(axes)):
            if shape[index - rank] == 1 != op.shape[index]:
                continue
            result[index] = op.labels.tie(result[index], axis, op.ties) if seen[index] else axis
            seen[index] = True
    return tuple(result)


def like_the_first(op: Operation) -> Axes:
    """The result has the first operand's positions."""
    return op.source_axes


def window(op: Operation) -> Axes:
    """Pooling and resizing: channels pass, the spatial dimensions must not carry any."""
    if not isinstance(op.shape[0], int):
        raise NotUnderstoodError("returns positions beside its values")
    spatial = WINDOWS[operator_name(op.node)]
    if any(axis is not None for axis in op.source_axes[-spatial:]):
        raise NotUnderstoodError("slides over its channels")
    return (*op.source_axes[:-spatial], *[None] * spatial)


def reduction(op: Operation) -> Axes:
    """Reducing anything but channels drops those dimensions."""
    rank = len(op.source_axes)
    dims = op.named.get("dim")
    chosen = [dims] if isinstance(dims, int) else list(dims or range(rank))
    reduced = {dim % rank for dim in chosen}
    for dim in reduced:
        op.labels.pin(op.source_axes[dim], f"{op.title} reduces over its channels")
    keep = op.named.get("keepdim", False)
    left = [None if dim in reduced else axis for dim, axis in enumerate(op.source_axes)]
    return tuple(axis for dim, axis in enumerate(left) if keep or dim not in reduced)


def along_one_dimension(op: Operation) -> Axes:
    """Softmax and the like: fine along any dimension but channels."""
    dims = op.named["dims"] if "dims" in op.named else [op.named["dim"]]
    for dim in dims or range(len(op.source_axes)):
        op.labels.pin(op.source_axes[dim], f"{op.title} runs along its channels")
    return op.source_axes


RULES = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(LIKE_THE_FIRST, like_the_first),
    **dict.fromkeys(WINDOWS, window),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(ALONG_ONE_DIMENSION, along_one_dimension),
}


def _operands(op: Operation) -> list[Node]:
    return [operand for operand in op.node.all_input_nodes if operand in op.axes and operand in op.shapes]
