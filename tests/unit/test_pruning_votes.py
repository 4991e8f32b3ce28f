"""Scores from batch norms and activations, and first-order importance without labels, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pruning_networks import traced
from torch import nn

from edgeport.pruning.groups import ChannelGroup, find_groups
from edgeport.pruning.importance import taylor
from edgeport.pruning.votes import Vote, activation_votes, batch_norm_votes, group_norms, voted_scores, weight_votes


class _Normed(nn.Module):
    """A stream with a norm on each of its two writers, and a layer without one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.second, self.norm2 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.plain, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.norm1.weight.copy_(torch.tensor([1.0, -3.0]))
            self.norm2.weight.copy_(torch.tensor([10.0, 30.0]))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm1(self.first(x))
        return self.last(self.plain(x + self.norm2(self.second(x))))


def test_batch_norm_scales_vote_over_their_mean_and_layers_without_one_are_told() -> None:
    inputs = (torch.randn(2, 1, 3, 3),)
    module = traced(_Normed().eval(), inputs)
    groups = find_groups(module, inputs)

    scores = {group.name: voted_scores(group, batch_norm_votes(module, groups)) for group in groups.groups}

    # |gamma| 1, 3 (mean 2) and 10, 30 (mean 20)
    assert scores["first"] is not None
    np.testing.assert_allclose(scores["first"], [1 / 2 + 10 / 20, 3 / 2 + 30 / 20])
    assert scores["plain"] is None


def test_a_group_norm_counts_filters_readers_and_scales_but_no_bias() -> None:
    inputs = (torch.randn(2, 1, 3, 3),)
    network = _Normed().eval()
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
        network.second.weight.copy_(torch.tensor([[1.0, 0.0], [3.0, 5.0]]).reshape(2, 2, 1, 1))
        network.plain.weight.copy_(torch.tensor([[1.0, 7.0], [2.0, 0.0]]).reshape(2, 2, 1, 1))
        network.last.weight.copy_(torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1))
    module = traced(network, inputs)
    groups = find_groups(module, inputs)
    votes = weight_votes(module, groups)
    found = {group.name: group_norms(group, votes).tolist() for group in groups.groups}
    # first: its filter, the norms, and of second both what it reads and what it writes, and what plain reads
    stream = [1 + 1 + 100 + (1 + 9) + 1 + (1 + 4), 4 + 9 + 900 + 25 + (9 + 25) + 49]
    assert found == {"first": stream, "plain": [1 + 49 + 4, 4 + 16]}


def test_activation_is_the_mean_absolute_value_that_is_read() -> None:
    first, last = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([2.0, -3.0]).reshape(2, 1, 1, 1))
    inputs = (torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1),)
    module = traced(nn.Sequential(first, nn.ReLU(), last).eval(), inputs)
    groups = find_groups(module, inputs)
    votes = activation_votes(module, groups, [(inputs[0][:1],), (inputs[0][1:],)])

    scores = voted_scores(groups.groups[0], votes)

    # after ReLU: channel 0 is 2, 0 (mean 1), channel 1 is 0, 6 (mean 3); mean of both 2
    assert scores is not None
    np.testing.assert_allclose(scores, [1 / 2, 3 / 2])


def test_a_flattened_channel_counts_all_its_positions() -> None:
    first, last = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(4, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    inputs = (torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2).repeat(2, 1, 1, 1),)
    module = traced(nn.Sequential(first, nn.Flatten(), last).eval(), inputs)
    groups = find_groups(module, inputs)

    scores = voted_scores(groups.groups[0], activation_votes(module, groups, [inputs]))

    assert scores is not None
    np.testing.assert_allclose(scores, [4 / 3, 8 / 3])  # read: 1, 3, 2, 6, mean 3


def test_a_place_that_sees_a_part_of_a_group_has_no_vote() -> None:
    group = ChannelGroup(name="g", filters=(), classes=np.array([7, 3]))
    part = Vote(place="norm", classes=np.array([3, 9]), values=np.array([1.0, 1.0]))
    whole = Vote(place="norm", classes=np.array([9, 3, 7]), values=np.array([4.0, 1.0, 1.0]))

    assert voted_scores(group, [part]) is None
    scores = voted_scores(group, [part, whole])
    assert scores is not None
    np.testing.assert_allclose(scores, [0.5, 0.5])


def test_without_labels_first_order_importance_is_how_far_outputs_move() -> None:
    hidden, head = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0], [2.0]]))
        head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    inputs = (torch.ones(2, 1),)
    module = traced(nn.Sequential(hidden, head).eval(), inputs)

    found = taylor(module, find_groups(module, inputs).groups, [((torch.ones(1, 1),), None)])

    # outputs (3, 4), length 5; without a hidden value they move by (3, 0) or (0, 4): diagonal, so any signs give it
    np.testing.assert_allclose(found["0.weight", 0], [(3 / 5) ** 2, (4 / 5) ** 2], rtol=1e-5)


def test_probabilities_have_the_gradient_of_their_scores() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()

    inputs = (torch.randn(4, 3, generator=torch.Generator().manual_seed(1)),)
    batches = [(inputs, torch.tensor([0, 1, 1, 0]))]
    plain = traced(network(), inputs)
    soft = traced(nn.Sequential(*network(), nn.Softmax(1)).eval(), inputs)

    expected = taylor(plain, find_groups(plain, inputs).groups, batches)
    found = taylor(soft, find_groups(soft, inputs).groups, batches, are_probabilities=True)

    np.testing.assert_allclose(found["0.weight", 0], expected["0.weight", 0], rtol=1e-3)
