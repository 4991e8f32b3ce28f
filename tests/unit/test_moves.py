"""Operators that only move values, and the grids that they leave them on."""

from __future__ import annotations

import torch
from graph_case import traced
from torch import nn
from torch.nn import functional

from edgeport.graph.canonical import canonicalize
from edgeport.graph.moves import on_source_grids, only_moves
from edgeport.graph.provenance import operator_name, provenance_keys
from edgeport.quant.simulate import rounded_activations


class Moving(nn.Module):
    """A slice and two pads, one of them with ones, then pooling of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(self.conv(x)[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = functional.pad(functional.max_pool2d(x, 2), (1, 1), value=1.0)
        return functional.avg_pool2d(x, 2).flatten(1)


def _module() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    sample = torch.rand(1, 3, 16, 16)
    return canonicalize(traced(Moving().eval(), sample).module, (sample,))


def test_moves_are_told_from_what_computes() -> None:
    found = {operator_name(node) for node in _module().graph.nodes if only_moves(node)}
    assert found == {"slice", "pad", "max_pool2d", "flatten"}
    pads = [node for node in _module().graph.nodes if operator_name(node) == "pad"]
    assert [only_moves(node) for node in pads] == [True, False]  # a one may not be on the grid


def test_moved_values_have_the_range_of_where_they_were_computed_and_are_not_rounded_again() -> None:
    module = _module()
    keys = [key for key in provenance_keys(module.graph).values() if key != "/x"]
    ranges = {key: (0.0, float(place + 1)) for place, key in enumerate(keys)}
    found = on_source_grids(module, ranges)
    moved = {key for key in keys if found[key] != ranges[key]}
    conv = ranges["conv/conv2d"]
    assert {key: found[key] for key in moved if key != "/flatten"} == dict.fromkeys(moved - {"/flatten"}, conv)
    assert found["/flatten"] == ranges["/avg_pool2d"]
    assert rounded_activations(module) == {"/x", "conv/conv2d", "/pad_1", "/avg_pool2d"}


def test_a_value_whose_source_has_no_range_keeps_its_own() -> None:
    module = _module()
    assert on_source_grids(module, {"/max_pool2d": (0.0, 2.0)}) == {"/max_pool2d": (0.0, 2.0)}
