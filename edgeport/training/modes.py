"""Turns a traced inference graph into one that learns, and puts what it learned back into the inference graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

ATEN = torch.ops.aten

# Operator -> position and name of the flag that tells training from inference.
TRAINING_FLAGS = {
    ATEN.batch_norm.default: (5, "training"),
    ATEN.dropout.default: (2, "train"),
    ATEN.feature_dropout.default: (2, "train"),
    ATEN.alpha_dropout.default: (2, "train"),
    ATEN.feature_alpha_dropout.default: (2, "train"),
}
RUNNING_MEAN, RUNNING_VAR, MOMENTUM = 3, 4, 6
DEFAULT_MOMENTUM = 0.1  # torch.nn.BatchNorm2d's default


def training_copy(module: GraphModule) -> GraphModule:
    """Return a copy that learns: batch norms use and track batch statistics, dropout drops, weights have gradients.

    A batch norm keeps its traced momentum. One that was made with `momentum=None` (a cumulative average) is traced with
    momentum 0, which would never track anything; it gets PyTorch's default, 0.1.

    Raises:
        ValueError: a batch norm's running statistics are not registered as buffers, so that updates would be lost.
    """
    learner = copy.deepcopy(module)
    buffers = {name for name, _ in learner.named_buffers(remove_duplicate=False)}
    for node in learner.graph.nodes:
        if node.target not in TRAINING_FLAGS or not _has_statistics(node, buffers):
            continue
        _set(node, *TRAINING_FLAGS[node.target], True)
        if node.target == ATEN.batch_norm.default and not node.args[MOMENTUM]:
            _set(node, MOMENTUM, "momentum", DEFAULT_MOMENTUM)
    learner.recompile()
    for parameter in learner.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return learner


def frozen_copy(module: GraphModule) -> GraphModule:
    """Return a copy for inference only: no parameter has a gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def tensors_of(module: GraphModule) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name, detached; the memory is shared with `module`."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def with_tensors(module: GraphModule, tensors: Mapping[str, torch.Tensor]) -> GraphModule:
    """Return a copy of `module` whose parameters and buffers hold the values of `tensors`; memory layouts stay."""
    result = copy.deepcopy(module)
    load_tensors(result, tensors)
    return result


def load_tensors(module: GraphModule, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters and buffers of `module`.

    Raises:
        ValueError: the names or a shape do not match.
    """
    own = tensors_of(module)
    if own.keys() != tensors.keys():
        raise ValueError(f"tensors differ: {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(tensors[name].shape)}")
        tensor.copy_(tensors[name])


def ends_in_softmax(module: GraphModule) -> bool:
    """Whether the first output comes straight out of a softmax, i.e. holds probabilities instead of logits."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(output.args) if isinstance(leaf, Node)]
    return bool(leaves) and leaves[0].target in (ATEN.softmax.int, ATEN._softmax.default)


def _has_statistics(node: Node, buffers: set[str]) -> bool:
    """Whether the node is no batch norm, or one that tracks statistics (others always use the batch's own)."""
    if node.target != ATEN.batch_norm.default:
        return True
    tracked = [node.args[position] for position in (RUNNING_MEAN, RUNNING_VAR)]
    for statistic in tracked:
        if isinstance(statistic, Node) and str(statistic.target) not in buffers:
            raise ValueError(f"running statistic '{statistic.target}' of {node.name} is not a buffer")
    return all(isinstance(statistic, Node) for statistic in tracked)


def _set(node: Node, position: int, name: str, value: object) -> None:
    """Set an argument that may be given by position or by name."""
    if position < len(node.args):
        node.update_arg(position, value)  # type: ignore[arg-type]  # fx's Argument does not name plain object
    else:
        node.update_kwarg(name, value)  # type: ignore[arg-type]  # as above
