"""AdaRound: the best of all roundings of a tiny layer, and never worse than nearest."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from graph_case import traced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.quant.adaround import Moments, Rounding, moments, rounding, solve
from edgeport.quant.layers import weighted_nodes


def problem(seed: int, *, inputs: int = 8, channels: int = 3, largest: int = 127) -> Rounding:
    """Return a layer with correlated inputs, some of them disturbed."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator)
    x = torch.relu(torch.randn(500, inputs, generator=generator) @ mixing).double()
    drift = 0.05 * torch.randn(500, inputs, generator=generator).double()
    weight = torch.randn(channels, inputs, generator=generator) * 0.1
    scales = weight.abs().amax(1) / largest
    found = Moments(gram=(x.T @ x / 500).unsqueeze(0), drift=(drift.T @ x / 500).unsqueeze(0))
    return rounding(weight, scales, found, largest=largest)


def test_finds_the_best_of_all_roundings_of_a_tiny_layer() -> None:
    gains = []
    for seed in range(6):
        one = problem(seed, channels=1)
        floor = one.steps.floor()
        choices = torch.tensor(list(product((0.0, 1.0), repeat=8)), dtype=torch.float64).reshape(1, -1, 8)
        every = torch.where(one.free, floor + choices, one.nearest().expand(1, 256, 8))
        best = float(one.error(every).min())
        assert float(one.error(solve(one, iterations=200))) == pytest.approx(best, rel=1e-9), seed
        gains.append(float(one.error(one.nearest())) - best)
    assert sum(gain > 0 for gain in gains) >= 4  # nearest is rarely the best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), largest=st.sampled_from([7, 63, 127]), iterations=st.sampled_from([0, 20]))
def test_is_never_worse_than_nearest_and_stays_a_neighbour(seed: int, largest: int, iterations: int) -> None:
    layer = problem(seed, inputs=12, largest=largest)
    found = solve(layer, iterations=iterations)
    assert bool((layer.error(found) <= layer.error(layer.nearest()) + 1e-9).all())
    assert bool(((found - layer.steps).abs() < 1).all())
    assert float(found.abs().max()) == largest  # the channel's largest weight is where it was
    assert torch.equal(found, found.round())


def test_same_problem_has_the_same_answer() -> None:
    assert torch.equal(solve(problem(1), iterations=50), solve(problem(1), iterations=50))


def test_error_is_that_of_the_layers_output() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(4, 6), torch.randn(1, 200, 6)
    disturbed = x + 0.1 * torch.randn(1, 200, 6)
    module = canonicalize(traced(nn.Linear(6, 4).eval(), x[:, 0]).module, (x[:, 0],))
    node = weighted_nodes(module)[0]
    scales = weight.abs().amax(1) / 7
    found = moments(node, weight, [x], [disturbed], centre=False)
    # shrinkage keeps 200 / 206 off the diagonal; undone here, so that the error is exactly the samples'
    diagonal = torch.diag_embed(torch.diagonal(found.gram, dim1=-2, dim2=-1))
    exact = Moments(gram=(found.gram - diagonal) * 206 / 200 + diagonal, drift=found.drift * 206 / 200)
    layer = rounding(weight, scales, exact, largest=7)
    down, nearest = layer.steps.floor(), layer.nearest()

    def measured(integers: torch.Tensor) -> torch.Tensor:
        real = integers[0] * scales.double().unsqueeze(1)
        return ((x[0].double() @ weight.double().T - disturbed[0].double() @ real.T) ** 2).mean(0)

    wanted = (measured(down) - measured(nearest)) / scales.double() ** 2
    torch.testing.assert_close(layer.error(down)[0] - layer.error(nearest)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 9)),
        (nn.Conv2d(4, 4, (3, 2), padding=(2, 0), dilation=(2, 1), groups=4), (4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding="same", groups=2), (4, 7, 7)),
        (nn.Conv1d(4, 6, 3, padding=1), (4, 11)),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    ],
)
def test_patches_times_weights_are_the_layers_output(layer: nn.Module, shape: tuple[int, ...]) -> None:
    from edgeport.quant.adaround import _patches
    from edgeport.quant.layers import bias_of, groups_of, weight_of

    sample = torch.randn(1, *shape)
    module = canonicalize(traced(layer.eval(), sample).module, (sample,))
    node = weighted_nodes(module)[0]
    weight, bias = weight_of(module, node), bias_of(module, node)
    assert bias is not None
    patches = _patches(node, sample, weight)
    rows = weight.reshape(groups_of(node), -1, patches.shape[1])
    found = (rows @ patches).reshape(len(weight), -1) + bias.reshape(-1, 1)
    expected = module(sample)[0].reshape(len(weight), -1).detach()
    assert found.shape == expected.shape  # fewer than the limit of positions: all are there
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
