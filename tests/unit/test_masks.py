"""Which weights become zero."""

from __future__ import annotations

import pytest
import torch
from distill_case import traced
from torch import nn

from edgeport.pruning.grains import parse
from edgeport.pruning.masks import find_masks, mask


def kept(weight: torch.Tensor, text: str) -> list[object]:
    result: list[object] = mask(weight, parse(text).sparsity[0]).int().tolist()
    return result


def test_smallest_single_weights_go() -> None:
    assert kept(torch.tensor([[1.0, -4.0, 0.5], [2.0, -0.1, 3.0]]), "fine:0.5") == [[0, 1, 0], [1, 0, 1]]
    assert kept(torch.tensor([[1.0, 2.0, 3.0]]), "fine:0.5") == [[0, 1, 1]]  # one and a half: rounded down


def test_smallest_kernels_go_whole() -> None:
    weight = torch.tensor([[[[1.0, 1.0]], [[0.0, 3.0]]], [[[-5.0, 0.0]], [[0.5, 0.5]]]])  # sums 2, 3, 5, 1
    assert kept(weight, "kernel:0.5") == [[[[0, 0]], [[1, 1]]], [[[1, 1]], [[0, 0]]]]


def test_smallest_rows_of_kernels_go() -> None:
    weight = torch.tensor([[[[1.0, 1.0], [4.0, 0.0]]], [[[0.5, 0.0], [-3.0, 0.0]]]])  # rows 2, 4, 0.5, 3
    assert kept(weight, "vector:0.5") == [[[[0, 0], [1, 1]]], [[[0, 0], [1, 1]]]]


def test_two_of_every_four_input_channels_stay() -> None:
    row = torch.tensor([[1.0, -4.0, 2.0, 0.5, 7.0, 7.0, 7.0, 8.0, 0.1]])
    assert kept(row, "2:4") == [[0, 1, 1, 0, 1, 0, 0, 1, 1]]  # of equal ones the first; the ninth is in no four


def test_n_of_m_runs_along_input_channels_at_each_place_of_the_kernel() -> None:
    weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    stays = mask(weight, parse("2:4").sparsity[0])
    assert (stays.reshape(6, 2, 4, 3, 3).sum(2) == 2).all()
    left = weight.abs().masked_fill(~stays, torch.inf).reshape(6, 2, 4, 3, 3).amin(2)
    gone = weight.abs().masked_fill(stays, 0).reshape(6, 2, 4, 3, 3).amax(2)
    assert (left >= gone).all()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.pointwise(self.depthwise(self.first(x))))
        scores: torch.Tensor = self.head(y.mean((2, 3)))
        return scores


@pytest.mark.parametrize(
    ("text", "layers", "reasons"),
    [
        ("fine:0.5", {"first", "pointwise", "head"}, {"depthwise": "it is depthwise"}),
        (
            "2:4",
            {"pointwise", "head"},
            {"first": "it has 3 input channels, fewer than 4", "depthwise": "it is depthwise"},
        ),
        (
            "kernel:0.5",
            {"first"},
            {"pointwise": "a kernel of it is a single weight; fine:0.5", "head": "a kernel of it"},
        ),
        ("vector:0.5", {"first"}, {"pointwise": "a vector of it is a single weight", "depthwise": "it is depthwise"}),
    ],
)
def test_what_stays_whole_is_named(text: str, layers: set[str], reasons: dict[str, str]) -> None:
    found = find_masks(traced(Mixed(), ((3, 12, 12),)).module, parse(text).sparsity[0])
    assert {name.removesuffix(".weight") for name in found.kept} == layers
    for layer, reason in reasons.items():
        assert any(f"layer '{layer}' because {reason}" in sentence for sentence in found.left_whole)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(4, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, self.weight).mean((2, 3))  # type: ignore[arg-type]  # a buffer


def test_a_weight_that_is_no_parameter_stays_and_is_named() -> None:
    found = find_masks(traced(Constant(), ((3, 12, 12),)).module, parse("fine:0.5").sparsity[0])
    assert not found.kept
    assert "because its weight is no parameter" in found.left_whole[0]
