"""Which layers keep more bits than the file has."""

from __future__ import annotations

import pytest
import torch
from graph_case import traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.quant.layers import layer_bits
from edgeport.types import WeightBits


class Net(nn.Module):
    """First, middle, depthwise, twice the same, last; a shortcut of the raw input to the second layer's result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.middle(torch.relu(self.first(x))))
        y = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.depthwise(y))))))
        scores: torch.Tensor = self.last(y.mean((2, 3)))
        return scores


def bits_of(net: nn.Module, sample: torch.Tensor, bits: WeightBits) -> list[WeightBits]:
    return list(layer_bits(canonicalize(traced(net.eval(), sample).module, (sample,)), bits).values())


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_edges_depthwise_and_shared_layers_keep_more(bits: WeightBits) -> None:
    assert bits_of(Net(), torch.rand(1, 3, 4, 4), bits) == [7, bits, 8, 7, 7, 7]


def test_with_wide_weights_only_depthwise_layers_differ() -> None:
    assert bits_of(Net(), torch.rand(1, 3, 4, 4), 7) == [7, 7, 8, 7, 7, 7]
    assert set(bits_of(Net(), torch.rand(1, 3, 4, 4), 8)) == {8}


@pytest.mark.parametrize(("bits", "expected"), [(4, [4, 4]), (2, [7, 7]), (1, [7, 7])])
def test_large_layers_at_the_edges_get_four_bits_but_never_fewer(bits: WeightBits, expected: list[int]) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert bits_of(net, torch.rand(1, 8), bits) == expected
