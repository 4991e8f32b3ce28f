"""The int8 network on integers, by hand and where operators are not a runtime's integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graph_case import traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import asymmetric
from edgeport.quant.arithmetic import Arithmetic
from edgeport.quant.integer_simulate import IntegerSimulator
from edgeport.quant.simulate import Simulator

PLAIN = Arithmetic(rounded="all", rounds_addends=True, clips_on_grid=False, fuses_additions=False, rounds_bias=True)


class _Attending(nn.Module):
    """Attention between two linear layers, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.wide(self.norm(x)).chunk(3, -1)
        weights = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, -1)
        out: torch.Tensor = self.narrow((x + weights @ value).mean(1))
        return out


def _module(network: nn.Module, sample: torch.Tensor) -> torch.fx.GraphModule:
    return canonicalize(traced(network.eval(), sample).module, (sample,))


def test_operators_without_an_integer_form_are_computed_in_float32() -> None:
    torch.manual_seed(0)
    sample = torch.randn(1, 5, 8)
    module = _module(_Attending(), sample)
    ranges = dict.fromkeys(provenance_keys(module.graph).values(), (-4.0, 4.0))
    exact = IntegerSimulator(module, ranges, weight_bits=8, arithmetic=PLAIN).run([sample])[0]
    near = Simulator(module, (sample,), ranges).run([sample])[0]
    assert exact.shape == near.shape
    assert float((exact - near).abs().max()) <= 1.01 * 8 / 255  # a value near the middle of two steps may differ


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        (PLAIN, 2.0),  # 1.61 in steps of one
        (replace(PLAIN, rounded="inner"), 1.27 + 0.2 + 0.14),
        (replace(PLAIN, rounded="read"), 1.27 + 0.2 + 0.14),
        (replace(PLAIN, rounded="read", rounds_bias=False), 1.27 + 0.2 + 0.144),
    ],
)
def test_what_leaves_and_biases_are_as_the_arithmetic_says(arithmetic: Arithmetic, expected: float) -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, 0.2]]))  # 127 and 20 steps of 0.01
        layer.bias.copy_(torch.tensor([0.144]))  # 14.4 of them
    sample = torch.tensor([[1.0, 1.0]])
    module = _module(layer, sample)
    ranges = dict.fromkeys(provenance_keys(module.graph).values(), (0.0, 255.0))
    found = IntegerSimulator(module, ranges, weight_bits=8, arithmetic=arithmetic).run([sample])[0]
    np.testing.assert_allclose(found.numpy(), [[expected]], rtol=1e-6)


@pytest.mark.parametrize(("rounds_addends", "expected"), [(True, 110.0), (False, 110.4)])
def test_an_addend_is_clipped_to_its_range_and_rounded_where_the_runtime_does(
    rounds_addends: bool, expected: float
) -> None:
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2, bias=False)
            with torch.no_grad():
                self.layer.weight.copy_(torch.tensor([[10.04], [100.0]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x + self.layer(x)
            return out

    sample = torch.tensor([[10.0]])
    module = _module(Adding(), sample)
    ranges = dict.fromkeys(provenance_keys(module.graph).values(), (0.0, 255.0))  # steps of one
    arithmetic = replace(PLAIN, rounded="read", rounds_addends=rounds_addends)
    found = IntegerSimulator(module, ranges, weight_bits=8, arithmetic=arithmetic).run([sample])[0]
    assert float(found[0, 1]) == 10 + 255  # 1000 does not fit
    np.testing.assert_allclose(float(found[0, 0]), expected, rtol=1e-6)


class _Sum(nn.Module):
    """A sum of both inputs, and a ReLU that only it feeds."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.relu(a + b) * 2.0


def test_fused_additions_round_as_two_multiply_adds_in_float32() -> None:
    grids = {"/a": (-3.7, 9.1), "/b": (0.0, 5.3), "/relu": (0.0, 11.0)}
    values = torch.arange(256, dtype=torch.float64)
    first, second, result = (asymmetric(*ends) for ends in grids.values())
    a = ((values - first.zero_point) * first.scale).float().repeat_interleave(256)[None]
    b = ((values - second.zero_point) * second.scale).float().repeat(256)[None]
    module = canonicalize(traced(_Sum().eval(), a, b).module, (a, b))
    arithmetic = replace(PLAIN, fuses_additions=True)
    found = IntegerSimulator(module, grids, weight_bits=8, arithmetic=arithmetic).run([a, b])[0] / 2
    steps = np.rint(found.numpy() / result.scale).astype(int)

    ratios = [np.float32(one.scale) / np.float32(result.scale) for one in (first, second)]
    constant = np.float32(0) - (ratios[0] * np.float32(first.zero_point) + ratios[1] * np.float32(second.zero_point))
    integers = [np.repeat(np.arange(256), 256), np.tile(np.arange(256), 256)]
    inner = (integers[1] * np.float64(ratios[1]) + np.float64(constant)).astype(np.float32)
    outer = (integers[0] * np.float64(ratios[0]) + inner.astype(np.float64)).astype(np.float32)
    assert steps.tolist() == [np.clip(np.rint(outer), 0, 255).astype(int).tolist()]
