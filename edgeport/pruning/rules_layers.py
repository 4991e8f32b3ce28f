"""Channel rules of operators with parameters: convolution, linear, normalisation by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.fx import Node

from edgeport.pruning.operation import NotUnderstoodError, Operation

if TYPE_CHECKING:
    from edgeport.pruning.labels import Axes, Axis, Indices


def convolution(op: Operation) -> Axes:
    """Tie inputs to the filters' input channels; results are the filters.

    Depthwise: a filter goes with its input channel. Grouped: every group loses the same positions, so the number of
    groups stays and the weight remains one rectangular array.
    """
    weight, groups = op.named["weight"], op.named["groups"]
    filters, inputs = op.axes[weight][:2]
    channels = _channels(op, weight)
    width = op.shapes[weight][1]
    if groups == 1:
        op.labels.tie(channels, inputs, op.ties)
    elif width == 1:
        op.labels.tie(_repeat(channels, op.shapes[weight][0] // groups), filters, op.ties)
    else:
        op.labels.tie(channels, _tile(inputs, groups), op.ties)
        op.labels.tie(filters, _same_in_groups(filters, groups), op.ties)
    op.produce(weight, 0)
    return _with_channels(op, weight, filters)


def transposed_convolution(op: Operation) -> Axes:
    """As `convolution`, with a weight of shape (in, out / groups, ...)."""
    weight, groups = op.named["weight"], op.named["groups"]
    inputs, filters = op.axes[weight][:2]
    op.labels.tie(_channels(op, weight), inputs, op.ties)
    if groups == 1:
        op.produce(weight, 1)
        return _with_channels(op, weight, filters)
    if op.shapes[weight][0] == groups and op.shapes[weight][1] == 1:
        op.produce(weight, 0)
        return _with_channels(op, weight, inputs)
    if op.shapes[weight][0] == groups:
        raise NotUnderstoodError("is a depthwise transposed convolution with a multiplier")
    op.labels.tie(inputs, _same_in_groups(inputs, groups), op.ties)
    op.produce(weight, 1)
    return _with_channels(op, weight, _tile(filters, groups))


def linear(op: Operation) -> Axes:
    """Tie the last dimension to the weight's input features; results are the weight's rows."""
    weight, bias = op.named["weight"], op.named["bias"]
    outputs, inputs = op.axes[weight]
    op.labels.tie(op.source_axes[-1], inputs, op.ties)
    if bias is not None:
        op.labels.tie(op.axes[bias][0], outputs, op.ties)
    op.produce(weight, 0)
    return (*op.source_axes[:-1], outputs)


def channel_norm(op: Operation) -> Axes:
    """Batch and instance norm: a channel's statistics depend on that channel alone.

    Unless they are taken from the input now, over positions that can be cut: a standardised weight (Brock et al. 2021,
    "High-Performance Large-Scale Image Recognition Without Normalization") is normalised over its input channels.
    """
    axes = list(op.source_axes)
    if op.named.get("training") or op.named.get("use_input_stats") or op.named["running_mean"] is None:
        for axis in (*axes[:1], *axes[2:]):
            op.labels.pin(axis, f"{op.title} takes statistics over it")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.named[name] is not None:
            axes[1] = op.labels.tie(axes[1], op.axes[op.named[name]][0], op.ties)
    return tuple(axes)


def prelu(op: Operation) -> Axes:
    """One slope, or one for each channel of dimension 1."""
    axes, slope = list(op.source_axes), op.named["weight"]
    if op.shapes[slope] not in {(), (1,)}:
        axes[1] = op.labels.tie(axes[1], op.axes[slope][0], op.ties)
    return tuple(axes)


def layer_norm(op: Operation) -> Axes:
    """Layer and RMS norm: without a channel the statistics of those that stay would be others."""
    first = len(op.source_axes) - len(op.named["normalized_shape"])
    for dim, axis in enumerate(op.source_axes[first:]):
        op.labels.pin(axis, f"{op.title} normalises across channels")
        for name in ("weight", "bias"):
            if op.named.get(name) is not None:
                op.labels.tie(axis, op.axes[op.named[name]][dim], op.ties)
    return op.source_axes


def group_norm(op: Operation) -> Axes:
    """As `layer_norm`, with the statistics of a group of channels and of all positions."""
    for axis in op.source_axes[1:]:
        op.labels.pin(axis, f"{op.title} normalises across channels")
    for name in ("weight", "bias"):
        if op.named[name] is not None:
            op.labels.tie(op.source_axes[1], op.axes[op.named[name]][0], op.ties)
    return op.source_axes


RULES = {
    **{f"conv{rank}d": convolution for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": transposed_convolution for rank in (1, 2, 3)},
    "linear": linear,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "prelu": prelu,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
}


def _channel_dimension(op: Operation, weight: Node) -> int:
    return len(op.source_shape) - (len(op.shapes[weight]) - 2) - 1


def _channels(op: Operation, weight: Node) -> Axis:
    """Return the input's channel labels; a labelled height or width cannot follow through a kernel."""
    dimension = _channel_dimension(op, weight)
    for index, axis in enumerate(op.source_axes):
        if index != dimension:
            op.labels.pin(axis, f"{op.title} slides over it")
    return op.source_axes[dimension]


def _with_channels(op: Operation, weight: Node, channels: Axis) -> Axes:
    """Return the result's labels, the bias tied to them."""
    if op.named["bias"] is not None:
        op.labels.tie(op.axes[op.named["bias"]][0], channels, op.ties)
    dimension = _channel_dimension(op, weight)
    return tuple(channels if index == dimension else None for index in range(len(op.shape)))


def _repeat(axis: Axis, times: int) -> Axis:
    return axis if axis is None or times == 1 else np.repeat(axis, times)


def _tile(axis: Axis, times: int) -> Axis:
    return axis if axis is None else np.tile(axis, times)


def _same_in_groups(axis: Axis, groups: int) -> Indices | None:
    return None if axis is None else np.tile(axis[: axis.shape[0] // groups], groups)
