"""Zero channels without cutting them: what a pruned network must agree with, exactly but for rounding."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgeport.pruning.operation import arguments, operator_name
from edgeport.pruning.surgery import alive_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeport.pruning.groups import Groups

LAYERS = (
    *(f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)),
    *("linear", "matmul", "mm", "batch_norm", "instance_norm"),
)


def mask_channels(module: GraphModule, groups: Groups, kept: Mapping[str, Sequence[int]]) -> GraphModule:
    """Return a copy that keeps its shapes but where the channels that `kept` does not list say nothing.

    Their filters, biases and norm scales and shifts are zero, so they are zero after the norm; the weights that read
    them are zero too, for activations that turn zero into something else (sigmoid).

    Raises:
        ValueError: as `prune_channels`.
    """
    alive = alive_labels(groups, kept)
    result = copy.deepcopy(module)
    for node in result.graph.nodes:
        if operator_name(node) not in LAYERS:
            continue
        named = arguments(node)
        for argument in (named.get("weight"), named.get("bias"), node.args[1]):
            if not isinstance(argument, Node) or argument.op != "get_attr":
                continue
            value = result.get_parameter(str(argument.target))
            for dimension, axis in enumerate(groups.axes[argument.name]):
                if axis is not None:
                    dead = torch.from_numpy(np.flatnonzero(~alive[axis]))
                    value.data.index_fill_(dimension, dead, 0.0)
    return result
