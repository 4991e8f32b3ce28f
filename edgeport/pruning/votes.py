"""Importance that is read wherever channels pass, not in the filters alone: weights, batch-norm scales, activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeport.pruning.operation import arguments, operator_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edgeport.pruning.groups import ChannelGroup, Groups
    from edgeport.pruning.labels import Indices

READERS = {
    **{f"conv{rank}d": -1 - rank for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": -1 - rank for rank in (1, 2, 3)},
    "linear": -1,
}  # layer -> dimension of its input that counts channels, from the end


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What one place of the network says of the channels that pass it.

    Attributes:
        place: node name.
        classes: (positions,) label class of each channel there, as in `ChannelGroup.classes`.
        values: (positions,) its importance, >= 0.
    """

    place: str
    classes: Indices
    values: NDArray[np.float64]


def batch_norm_votes(module: GraphModule, groups: Groups) -> tuple[Vote, ...]:
    """Return |gamma| of every batch norm with a scale.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (arXiv:1708.06519), section 3:
    a channel is multiplied by gamma, so a small one says little. The paper trains with an L1 penalty on the scales that
    drives them apart; here they are taken as they come.
    """
    votes = []
    for node in module.graph.nodes:
        weight = arguments(node).get("weight") if operator_name(node) == "batch_norm" else None
        axes = groups.axes.get(weight.name) if isinstance(weight, Node) and weight.op == "get_attr" else None
        if axes is not None and axes[0] is not None:
            gamma = module.get_parameter(str(weight.target)).detach().double().abs().cpu().numpy()  # type: ignore[union-attr]  # a node
            votes.append(Vote(place=node.name, classes=groups.classes[axes[0]], values=gamma))
    return tuple(votes)


def weight_votes(module: GraphModule, groups: Groups) -> tuple[Vote, ...]:
    """Return the sum of squares that a channel has in every parameter but biases, and in every dimension of it.

    That is: of the filters that make it, the weights of all layers that read it, and the scales between.
    """
    votes = []
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for node in module.graph.nodes:
        axes = groups.axes.get(node.name) if node.op == "get_attr" else None
        value = parameters.get(str(node.target))
        if axes is None or value is None or _is_bias(node):
            continue
        squares = value.detach().double().square()
        for dimension, labels in enumerate(axes):
            if labels is not None:
                sums = squares.movedim(dimension, 0).reshape(len(labels), -1).sum(1).cpu().numpy()
                votes.append(Vote(place=f"{node.name}, {dimension}", classes=groups.classes[labels], values=sums))
    return tuple(votes)


def _is_bias(node: Node) -> bool:
    return all(arguments(user).get("bias") is node for user in node.users)


def group_norms(group: ChannelGroup, votes: Sequence[Vote]) -> NDArray[np.float64]:
    """Return the squared norm of all weights that would go with each channel of a group, (channels,).

    Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv:2301.12900), section 3.2, equation 5, without
    the training that makes groups sparse. ResNet-20 with projection shortcuts, cut to the same half of multiply-adds
    and trained for three epochs, had 89.5 % of 8,000 images by it and 89.1 by `l1` (one seed each).
    """
    total = np.zeros(group.channels)
    for vote in votes:
        channels, inside = _positions(group, vote)
        total += np.bincount(channels[inside], weights=vote.values[inside], minlength=group.channels)
    return total


def _positions(group: ChannelGroup, vote: Vote) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the channel of every position of a place, and whether it is one of this group's."""
    order = np.argsort(group.classes)
    found = np.searchsorted(group.classes, vote.classes, sorter=order)
    channels = order[np.minimum(found, group.channels - 1)]
    return channels, group.classes[channels] == vote.classes


def activation_votes(
    module: GraphModule, groups: Groups, batches: Iterable[Sequence[torch.Tensor]]
) -> tuple[Vote, ...]:
    """Return the mean absolute value with which each convolution and linear layer reads a channel.

    a(c) = mean over samples and positions of |x_c|, the mean activation of Molchanov et al. 2017, "Pruning
    Convolutional Neural Networks for Resource Efficient Inference" (arXiv:1611.06440), section 2.2. Not the share of
    zeros (APoZ, Hu et al. 2016, arXiv:1607.03250): it is the same for every channel where the activation is no ReLU,
    and does not see how large the values are that are not zero.

    Args:
        module: the network that `groups` was found in; it stays as it is.
        groups: what may be pruned.
        batches: a tensor a network input.

    Raises:
        ValueError: no batches.
    """
    reader = _Reading(module, groups)
    with torch.no_grad():
        for batch in batches:
            reader.run(*batch)
            reader.batches += 1
    if not reader.batches:
        raise ValueError("no batches to look at activations with")
    return tuple(
        Vote(place=name, classes=classes, values=reader.sums[name] / reader.counts[name])
        for name, classes in reader.classes.items()
    )


class _Reading(Interpreter):
    """Sums absolute values of what layers read."""

    def __init__(self, module: GraphModule, groups: Groups) -> None:
        super().__init__(module)
        self.groups = groups
        self.batches = 0
        self.classes: dict[str, Indices] = {}
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}

    def run_node(self, n: Node) -> Any:  # fx's own signature
        dimension = READERS.get(operator_name(n))
        source = n.args[0] if n.args else None
        if dimension is not None and isinstance(source, Node):
            axes = self.groups.axes.get(source.name)
            if isinstance(axes, tuple) and axes and axes[dimension] is not None:
                self._add(n.name, self.env[source], dimension, axes[dimension])
        return super().run_node(n)

    def _add(self, name: str, value: torch.Tensor, dimension: int, labels: Indices) -> None:
        values = value.detach().abs().movedim(dimension, 0).flatten(1).double()
        self.classes[name] = self.groups.classes[labels]
        self.sums[name] = self.sums.get(name, 0.0) + values.sum(1).cpu().numpy()
        self.counts[name] = self.counts.get(name, 0) + values.shape[1]


def voted_scores(group: ChannelGroup, votes: Sequence[Vote]) -> NDArray[np.float64] | None:
    """Return the importance of each channel of a group, (channels,); None where no place sees all of its channels.

    score(c) = sum over places p of (sum over positions of c in p of v) / (mean over all positions of p of v): every
    place has an equal say, whatever the size of its values.
    """
    total, seen = np.zeros(group.channels), False
    for vote in votes:
        channels, inside = _positions(group, vote)
        if np.unique(channels[inside]).size < group.channels:
            continue  # it sees a part: the rest would look unimportant
        sums = np.bincount(channels[inside], weights=vote.values[inside], minlength=group.channels)
        total += sums / max(float(vote.values.mean()), np.finfo(np.float64).tiny)
        seen = True
    return total if seen else None
