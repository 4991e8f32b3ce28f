"""Cross-layer equalization: hand-computed scales, and a network that computes the same."""

from __future__ import annotations

import pytest
import torch
from graph_case import traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.quant.equalize import (
    CLIPPED_FACTOR,
    HEADROOM,
    equalized,
    find_pairs,
    limited,
    observe,
    pair_factors,
    ranges_after,
    scale_factors,
    spread,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def canonical(net: nn.Module, sample: torch.Tensor) -> torch.fx.GraphModule:
    return canonicalize(traced(net.eval(), sample).module, (sample,))


def uneven(activation: nn.Module, *, last: nn.Module) -> nn.Sequential:
    """Return a network whose second activation has one loud channel."""
    first = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        first.weight *= torch.logspace(-2, 0, 8).reshape(-1, 1, 1, 1)
    return nn.Sequential(first, activation, last)


def test_scale_is_the_root_of_the_ranges_product_over_the_second() -> None:
    # sqrt(8 * 2) / 2 = 2, sqrt(1 * 4) / 4 = 1/2; a channel without values or without readers keeps 1
    factors = scale_factors(torch.tensor([8.0, 1.0, 0.0, 5.0]), torch.tensor([2.0, 4.0, 3.0, 0.0]))
    torch.testing.assert_close(factors, torch.tensor([2.0, 0.5, 1.0, 1.0]))


def test_two_linear_layers_have_the_scales_computed_by_hand() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.Sequential(first, nn.ReLU(), second)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        first.bias.copy_(torch.tensor([4.0, 0.0]))
        second.weight.copy_(torch.tensor([[1.0, 3.0], [2.0, -4.0]]))
    module = canonical(net, torch.ones(1, 2))
    pairs = find_pairs(module)
    assert [(pair.first, pair.second) for pair in pairs] == [("linear", "linear_1")]
    seen = observe(module, (torch.ones(1, 2),), [[torch.ones(1, 2)]], pairs)
    factors = pair_factors(module, pairs, seen.channels)["linear"]
    # activations (8, 1), columns of W2 (2, 4): s = (2, 1/2), over the largest: (1, 1/4)
    torch.testing.assert_close(factors, torch.tensor([1.0, 0.25]))
    result = equalized(module, pairs, {"linear": factors})
    state = result.state_dict()
    torch.testing.assert_close(state["0.weight"], torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(state["0.bias"], torch.tensor([4.0, 0.0]))
    torch.testing.assert_close(state["2.weight"], torch.tensor([[1.0, 0.75], [2.0, -1.0]]))
    assert ranges_after(module, pairs, {"linear": factors}, seen)["1/relu"] == (4.0, 8.0)


def test_relu_network_computes_the_same_everywhere() -> None:
    last = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = nn.Sequential(*uneven(nn.ReLU(), last=last), nn.Linear(16, 5))
    sample = torch.randn(4, 3, 8, 8)
    module = canonical(net, sample[:1])
    pairs = find_pairs(module)
    assert [(pair.first, pair.second, pair.repeats) for pair in pairs] == [
        ("conv2d", "conv2d_1", 1),
        ("conv2d_1", "linear", 4),
    ]
    seen = observe(module, (sample[:1],), [[sample]], pairs)
    factors = pair_factors(module, pairs, seen.channels)
    assert all(float(s.min()) < 0.8 for s in factors.values())  # something is scaled
    unseen = 10 * torch.randn(4, 3, 8, 8)
    result = equalized(module, pairs, factors)
    torch.testing.assert_close(result(unseen), module(unseen), rtol=1e-4, atol=1e-5)  # float32 rounding
    again = observe(result, (sample[:1],), [[sample]], find_pairs(result))
    before, after = (spread(*found.channels["relu"]) for found in (seen, again))
    assert after < 0.8 * before


def test_depthwise_layer_makes_channels_alike_and_is_rescaled_itself() -> None:
    last = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    sample = torch.randn(4, 3, 8, 8)
    module = canonical(uneven(nn.ReLU(), last=last), sample[:1])
    pairs = find_pairs(module)
    assert len(pairs) == 2
    seen = observe(module, (sample[:1],), [[sample]], pairs)
    factors = pair_factors(module, pairs, seen.channels)
    result = equalized(module, pairs, factors)
    again = observe(result, (sample[:1],), [[sample]], pairs)
    high = again.channels["relu"][1]
    limit = float(seen.channels["relu"][1].max())
    reachable = seen.channels["relu"][1] >= limit / 16  # a factor is 16 at most
    torch.testing.assert_close(high[reachable], torch.full_like(high[reachable], limit))
    torch.testing.assert_close(result(sample), module(sample), rtol=1e-4, atol=1e-5)


def test_no_channel_is_moved_across_a_clip() -> None:
    # a channel that reaches 6 keeps 1; one of 5 is above 6 / 2 already; one of 2 may grow to 3, one of 0.1 twice
    assert (HEADROOM, CLIPPED_FACTOR) == (2.0, 2.0)
    s = limited(torch.tensor([0.1, 0.1, 0.1, 0.1, 2.0]), torch.tensor([6.0, 5.0, 2.0, 0.1, 3.0]), 6.0)
    torch.testing.assert_close(s, torch.tensor([1.0, 1.0, 2 / 3, 1 / 2, 2.0]))


def test_relu6_network_computes_the_same_on_what_was_seen() -> None:
    net = uneven(nn.ReLU6(), last=nn.Conv2d(8, 4, 3))
    sample = 8 * torch.randn(8, 3, 8, 8)
    module = canonical(net, sample[:1])
    pairs = find_pairs(module)
    assert [pair.clip for pair in pairs] == [6.0]
    seen = observe(module, (sample[:1],), [[sample]], pairs)
    high = seen.channels["hardtanh"][1]
    assert bool((high == 6).any())
    assert bool((high < 6).any())
    factors = pair_factors(module, pairs, seen.channels)
    assert bool((factors["conv2d"][high == 6] == 1).all())
    assert float(factors["conv2d"].min()) == 0.5
    torch.testing.assert_close(equalized(module, pairs, factors)(sample), module(sample), rtol=1e-4, atol=1e-5)


def test_layers_with_another_reader_or_another_operator_between_are_no_pair() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.one(x))
            out: torch.Tensor = self.three(torch.sigmoid(self.two(y))) + y
            return out

    assert find_pairs(canonical(Branch(), torch.randn(1, 3, 4, 4))) == ()


def test_shared_weights_are_no_pair() -> None:
    layer = nn.Linear(4, 4)
    assert find_pairs(canonical(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 4))) == ()
