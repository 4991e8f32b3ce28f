"""Scores, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pruning_networks import traced
from torch import nn

from edgeport.pruning.groups import find_groups
from edgeport.pruning.importance import IMPORTANCE, channel_scores, fpgm, taylor


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, (1, 2), bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.last = nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 1.0]]).reshape(2, 1, 1, 2))
            self.second.weight.copy_(torch.tensor([[1.0, 0.0], [-30.0, 40.0]]).reshape(2, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        return self.last(x + self.second(x))


@pytest.mark.parametrize(
    ("importance", "scores"),
    [
        ("l1", [7 / 4 + 1 / 35.5, 1 / 4 + 70 / 35.5]),  # norms 7, 1 (mean 4) and 1, 70 (mean 35.5)
        ("l2", [5 / 3 + 1 / 25.5, 1 / 3 + 50 / 25.5]),  # norms 5, 1 (mean 3) and 1, 50 (mean 25.5)
    ],
)
def test_each_layer_votes_with_its_norms_over_their_mean(importance: str, scores: list[float]) -> None:
    inputs = (torch.randn(2, 1, 3, 3),)
    module = traced(_Residual().eval(), inputs)
    (group,) = find_groups(module, inputs).groups

    np.testing.assert_allclose(channel_scores(module, group, importance), scores, rtol=1e-12)


def test_a_channel_of_several_filters_scores_their_sum() -> None:
    first = nn.Conv2d(1, 4, 1, bias=False)
    network = nn.Sequential(first, nn.Conv2d(4, 2, 1, groups=2))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, 2.0, 5.0, 4.0]).reshape(4, 1, 1, 1))
    inputs = (torch.randn(2, 1, 3, 3),)
    module = traced(network.eval(), inputs)
    (group,) = find_groups(module, inputs).groups

    assert group.filters[0].positions.tolist() == [[0, 2], [1, 3]]
    np.testing.assert_allclose(channel_scores(module, group, "l1"), [6 / 3, 6 / 3])


def test_a_layer_of_zeros_scores_zero() -> None:
    first = nn.Conv2d(1, 4, 1)
    nn.init.zeros_(first.weight)
    network = nn.Sequential(first, nn.Conv2d(4, 2, 1))
    inputs = (torch.randn(2, 1, 3, 3),)
    module = traced(network.eval(), inputs)

    for importance in IMPORTANCE:
        assert channel_scores(module, find_groups(module, inputs).groups[0], importance).tolist() == [0.0] * 4


def test_the_filter_that_the_others_can_replace_has_the_least_distance_to_them() -> None:
    filters = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])  # distances 5, 8 and 5
    assert fpgm(filters).tolist() == [13.0, 10.0, 13.0]


class _TwoPaths(nn.Module):
    """Scores (h0 * a, h1 * b) of hidden values h = x * w; the second path matters twice as much."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0], [2.0]]))
            self.head.weight.copy_(torch.eye(2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.hidden(x))


def test_first_order_change_of_the_loss_by_hand() -> None:
    inputs = (torch.ones(2, 1),)
    module = traced(_TwoPaths().eval(), inputs)
    groups = find_groups(module, inputs).groups
    found = taylor(module, groups, [((torch.ones(1, 1),), torch.tensor([0]))])
    # logits 1, 2: p = 1 / (1 + e), 1 - p; gradient of the cross-entropy p0 - 1, p1; times h = w x
    p0 = 1 / (1 + np.e)
    expected = [((p0 - 1) * 1) ** 2, ((1 - p0) * 2) ** 2]
    np.testing.assert_allclose(found["hidden.weight", 0], expected, rtol=1e-5)
    assert not any(value.requires_grad and value.grad is not None for value in module.parameters())


def test_measured_scores_take_the_place_of_norms() -> None:
    inputs = (torch.ones(2, 1),)
    module = traced(_TwoPaths().eval(), inputs)
    (group,) = find_groups(module, inputs).groups
    scores = channel_scores(module, group, "taylor", {("hidden.weight", 0): np.array([1.0, 3.0])})
    np.testing.assert_allclose(scores, [0.5, 1.5])


def test_without_groups_there_is_nothing_to_measure() -> None:
    module = traced(nn.Sequential(nn.Flatten()).eval(), (torch.ones(2, 3),))
    assert taylor(module, [], [((torch.ones(1, 3),), torch.tensor([0]))]) == {}
