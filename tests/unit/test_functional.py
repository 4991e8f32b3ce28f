"""In-place operators are replaced where nothing sees their writing, and only there."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from graph_case import image, operators, traced
from torch import nn

from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.functional import has_mutation, make_functional


class Block(nn.Module):
    """A residual block as torchvision writes it, or the same without writing over anything."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.act, self.inplace = nn.ReLU(inplace=inplace), inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if self.inplace:
            y += x
        else:
            y = y + x
        found: torch.Tensor = self.act(y)
        return found


def test_block_that_writes_in_place_is_traced_like_one_that_does_not() -> None:
    torch.manual_seed(0)
    writing, plain = Block(inplace=True), Block(inplace=False)
    plain.load_state_dict(writing.state_dict())
    models = [traced(network, image()) for network in (writing, plain)]
    assert operators(models[0].module) == operators(models[1].module)
    graphs = [FloatGraph.from_model(model) for model in models]
    assert graphs[0].provenance == graphs[1].provenance
    values, wanted = (graph.activations() for graph in graphs)
    assert all(
        torch.equal(values[name], wanted[name]) for name in wanted
    )  # none was written over after it was recorded


class WritesInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 2.0
        x /= 3.0
        found: torch.Tensor = self.linear(x)
        return found


def test_network_that_writes_over_its_input_leaves_samples_alone() -> None:
    network, sample = WritesInput(), torch.ones(1, 4)
    model = traced(network, sample)
    for _ in range(2):
        torch.testing.assert_close(model.module(sample), network.linear(torch.full((1, 4), -1 / 3)))
    assert torch.equal(sample, torch.ones(1, 4))
    assert torch.equal(model.example_inputs[0], torch.ones(1, 4))


class Chain(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        y.mul_(2)
        z = F.relu_(F.dropout(y, training=False))
        y.sub_(0.5)
        return y, z, y.clone().add_(1) + y


class ThroughView(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        flat = y.flatten(1)
        flat.relu_()
        y[:, 0] = 3.0
        return y, flat


class ViewMadeBefore(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        view = y[:, 1:]
        y.mul_(2)
        return y, view


class OtherDtype(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        y.add_(x.double())
        return y, y


@pytest.mark.parametrize("network", [Chain(), ThroughView(), ViewMadeBefore(), OtherDtype()])
def test_function_stays_the_same(network: nn.Module) -> None:
    program = torch.export.export(network, (image().clone(),)).module(check_guards=False)
    module = torch.fx.GraphModule(program, copy.deepcopy(program.graph))
    make_functional(module)
    for found, wanted in zip(module(image()), network(image()), strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)


def test_what_a_view_shows_is_left_alone() -> None:
    assert has_mutation(traced(ThroughView(), image()).module)
    assert has_mutation(traced(ViewMadeBefore(), image()).module)
    assert not has_mutation(traced(Block(inplace=True), image()).module)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count


def test_write_into_a_buffer_is_left_alone() -> None:
    program = torch.export.export(Counter(), (image(),)).module(check_guards=False)
    module = torch.fx.GraphModule(program, program.graph)
    before = operators(module)
    make_functional(module)
    assert operators(module) == before
