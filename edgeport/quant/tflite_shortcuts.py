"""Strided slices of pictures, spelled as 1x1 convolutions for TFLite.

XNNPACK takes no slice with a stride: `x[:, :, ::2, ::2]` runs in the interpreter's own kernels, and cuts the network
into parts that XNNPACK runs one by one. A convolution with stride two and an identity for weights gives the same values
inside one part, and zero filters give the channels that a zero pad behind the slice adds (the "option A" shortcut of
He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2). ResNet-20, one thread on x86 with AVX2:
1.20 -> 0.98 ms of processor time in float32, 1.33 -> 1.20 in int8.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

MOST_CHANNELS = 256  # in and out: one more 1x1 layer is then at most a few percent of the block that it goes around
OPEN_END = 2**63 - 1  # what Python's open slice end becomes in an ATen graph


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """A slice of height and width, and a zero pad of channels behind it.

    Attributes:
        source: what is sliced.
        stride: of both slices.
        front: zero channels before those of the source.
        back: zero channels after them.
    """

    source: Node
    stride: int
    front: int
    back: int


def slices_as_convolutions(module: GraphModule) -> GraphModule:
    """Return the network with height-and-width slices of one stride, and zero pads of channels after them, as conv2d.

    The result is the same for finite values. Without such slices, the module itself is returned.
    """
    if not any(_chain(node) for node in module.graph.nodes):
        return module
    result = copy.deepcopy(module)
    for node in list(result.graph.nodes):
        chain = _chain(node)
        if chain is not None:
            _replace(result, node, chain)
    result.graph.eliminate_dead_code()
    result.recompile()
    return result


def _chain(last: Node) -> _Chain | None:
    """Return what this node, a second slice or the pad after it, ends; None where it ends no such thing."""
    pads = _channel_pads(last)
    second = last if pads is None else _sole(last.args[0])
    goes_on = pads is None and len(last.users) == 1 and _channel_pads(next(iter(last.users))) is not None
    if second is None or goes_on:
        return None
    outer = _slice(second)
    first = _sole(second.args[0]) if outer is not None else None
    inner = _slice(first)
    if first is None or inner is None or outer is None or {inner[0], outer[0]} != {2, 3} or inner[1] != outer[1]:
        return None
    source, (front, back) = first.args[0], pads or (0, 0)
    value = source.meta.get("val") if isinstance(source, Node) else None
    if not isinstance(source, Node) or value is None or value.dim() != 4 or not value.is_floating_point():
        return None
    is_small = int(value.shape[1]) + front + back <= MOST_CHANNELS
    return _Chain(source=source, stride=inner[1], front=front, back=back) if is_small else None


def _sole(node: object) -> Node | None:
    """Return a node that one other reads; None where more do."""
    return node if isinstance(node, Node) and len(node.users) == 1 else None


def _slice(node: object) -> tuple[int, int] | None:
    """Return axis and stride of a slice from the start to the end; None for anything else."""
    if not isinstance(node, Node) or node.target is not aten.slice.Tensor:
        return None
    given: tuple[object, ...] = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    _, axis, start, end, stride = given
    is_open = start in (0, None) and end in (OPEN_END, None)
    return (int(str(axis)), int(str(stride))) if is_open and int(str(stride)) > 1 else None


def _channel_pads(node: Node) -> tuple[int, int] | None:
    """Return how many zero channels a pad puts before and after; None for anything else."""
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return None
    mode_or_value = (*node.args[2:], *node.kwargs.values())
    if any(value != "constant" and value for value in mode_or_value):
        return None
    widths = [int(str(width)) for width in node.args[1]]  # type: ignore[union-attr]  # a list of integers
    if len(widths) != 6 or any(widths[:4]) or min(widths) < 0:
        return None
    return widths[4], widths[5]


def _replace(module: GraphModule, last: Node, chain: _Chain) -> None:
    value = chain.source.meta["val"]
    channels = int(value.shape[1])
    weight = torch.zeros(chain.front + channels + chain.back, channels, 1, 1, dtype=value.dtype)
    weight[chain.front : chain.front + channels, :, 0, 0] = torch.eye(channels, dtype=value.dtype)
    buffer = f"{last.name}_identity"
    module.register_buffer(buffer, weight)
    with module.graph.inserting_before(last):
        arguments = (chain.source, module.graph.get_attr(buffer), None, [chain.stride, chain.stride])
        layer = module.graph.call_function(aten.conv2d.default, arguments)
    layer.meta = dict(last.meta)
    last.replace_all_uses_with(layer)
    module.graph.erase_node(last)
