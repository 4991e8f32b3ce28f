"""Strided slices become 1x1 convolutions that give the same values, where and only where that is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional

from edgeport.quant.tflite_shortcuts import slices_as_convolutions

aten = torch.ops.aten


class OptionA(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)) + 0.0


class SliceAlone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::3, ::3] * 2.0


class OtherStart(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 1::2, ::2] * 2.0


class TwoStrides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::3] * 2.0


class OneAxis(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2] * 2.0


class PaddedWithOnes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), value=1.0)


class SliceReadTwice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, :, ::2]
        return rows[:, :, :, ::2].sum() + rows


INPUT = torch.arange(2 * 3 * 7 * 9, dtype=torch.float32).reshape(2, 3, 7, 9) - 100


def traced(module: nn.Module) -> GraphModule:
    inner = torch.export.export(module, (INPUT,)).module(check_guards=False)
    return GraphModule(inner, inner.graph)


def kinds(module: GraphModule) -> set[object]:
    return {node.target for node in module.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("network", [OptionA, SliceAlone])
def test_slices_with_one_stride_become_a_convolution_with_the_same_values(network: type[nn.Module]) -> None:
    before = traced(network())
    after = slices_as_convolutions(before)
    assert aten.conv2d.default in kinds(after)
    assert not kinds(after) & {aten.slice.Tensor, aten.pad.default, aten.constant_pad_nd.default}
    assert torch.equal(after(INPUT), network()(INPUT))
    assert aten.slice.Tensor in kinds(before)  # the network itself is left as it is


@pytest.mark.parametrize("network", [OtherStart, TwoStrides, OneAxis, SliceReadTwice])
def test_other_slices_stay(network: type[nn.Module]) -> None:
    module = traced(network())
    assert slices_as_convolutions(module) is module


def test_pad_with_another_value_stays_behind_the_convolution() -> None:
    after = slices_as_convolutions(traced(PaddedWithOnes()))
    assert aten.conv2d.default in kinds(after)
    assert torch.equal(after(INPUT), PaddedWithOnes()(INPUT))
