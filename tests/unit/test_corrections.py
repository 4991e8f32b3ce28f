"""Corrected layers: their grid, the walk that makes them, and how they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from graph_case import traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import Executor
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import symmetric_weight
from edgeport.quant.corrections import Corrections, LayerWeights, correctable_layers, with_layers
from edgeport.quant.layers import weighted_nodes
from edgeport.quant.sequential import Methods, correct_layers
from edgeport.quant.trial import Distance, Trial, distance
from edgeport.types import WeightBits


class Small(nn.Module):
    """A convolution, a depthwise and a pointwise one, an addition, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = self.point(torch.relu(self.deep(x))) + x
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def prepared() -> tuple[torch.fx.GraphModule, torch.Tensor, dict[str, tuple[float, float]]]:
    """Return a canonical network, samples, and the ranges of its activations on them."""
    torch.manual_seed(0)
    sample = torch.randn(32, 3, 10, 10) + 0.5
    module = canonicalize(traced(Small().eval(), sample[:1]).module, (sample[:1],))
    ranges: dict[str, tuple[float, float]] = {}

    def observe(key: str, value: torch.Tensor) -> None:
        ranges[key] = (float(value.min()), float(value.max()))

    Executor(module, (sample[:1],)).run([sample], observe)
    return module, sample, ranges


def every_layer(module: torch.fx.GraphModule, ranges: dict[str, tuple[float, float]]) -> frozenset[str]:
    return frozenset(correctable_layers(module, ranges))


@pytest.mark.parametrize("adaround", [False, True])
@pytest.mark.parametrize("bits", [7, 8])
def test_corrected_weights_are_rounded_to_themselves(*, adaround: bool, bits: WeightBits) -> None:
    module, sample, ranges = prepared()
    layers = every_layer(module, ranges)
    methods = Methods(adaround=layers if adaround else frozenset(), iterations=20)
    made = correct_layers(module, [[sample]], ranges, weight_bits=[bits], methods=methods).corrections.layers[bits]
    assert set(made) == layers
    keys = provenance_keys(module.graph)
    for node in weighted_nodes(module):
        layer = made[keys[node.name]]
        own = 8 if keys[node.name] == "deep/conv2d" else bits  # depthwise layers keep 8
        found = symmetric_weight(layer.weight, axis=0, bits=own)
        scales = found.scales.reshape(-1, *[1] * (layer.weight.ndim - 1))
        np.testing.assert_allclose(found.integers * scales, layer.weight, rtol=1e-6, atol=0)
        original = module.state_dict()[str(node.args[1].target)].numpy()  # type: ignore[union-attr]  # a get_attr node
        assert float(np.abs(layer.weight - original).max()) <= scales.max() * 1.0001  # a neighbour on the grid
        np.testing.assert_array_equal(
            np.abs(layer.weight).max((1, *range(2, layer.weight.ndim))),
            np.abs(original).max((1, *range(2, original.ndim))),
        )


def test_bias_correction_takes_a_known_shift_back() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, 0.4]]))  # steps of 1: 0.4 is rounded to 0
        layer.bias.zero_()
    generator = torch.Generator().manual_seed(0)
    sample = torch.stack([torch.zeros(64), 8 + torch.rand(64, generator=generator)], 1)
    module = canonicalize(traced(layer.eval(), sample[:1]).module, (sample[:1],))
    ranges = {"/" + node.name: (0.0, 10.0) for node in module.graph.nodes if node.op == "placeholder"}
    made = correct_layers(module, [[sample]], ranges, weight_bits=[8], methods=Methods()).corrections.layers[8]
    (found,) = made.values()
    np.testing.assert_array_equal(found.weight, [[127.0, 0.0]])
    # the output lost 0.4 E[x], x the input before rounding; shrinkage takes less than 1e-4 of it
    assert found.bias is not None
    assert float(found.bias[0]) == pytest.approx(0.4 * float(sample[:, 1].mean()), rel=2e-4)


def test_adaround_lowers_the_simulated_networks_error_at_few_bits() -> None:
    module, sample, ranges = prepared()
    trial = Trial(module, (sample[:1],), [[sample]])
    plain = trial.distance(module, ranges, 7)
    made = correct_layers(
        module,
        [[sample]],
        ranges,
        weight_bits=[7],
        methods=Methods(adaround=every_layer(module, ranges), iterations=50),
    )
    assert trial.distance(with_layers(module, made.corrections.layers[7]), ranges, 7).error < 0.9 * plain.error


def test_both_numbers_of_bits_at_once_are_the_same_as_one_by_one() -> None:
    module, sample, ranges = prepared()
    both = correct_layers(module, [[sample]], ranges, weight_bits=[7, 8], methods=Methods()).corrections.layers
    for bits in (7, 8):
        one = correct_layers(module, [[sample]], ranges, weight_bits=[bits], methods=Methods()).corrections.layers
        for key, layer in one[bits].items():
            np.testing.assert_array_equal(layer.weight, both[bits][key].weight)
            assert layer.bias is not None
            np.testing.assert_array_equal(layer.bias, both[bits][key].bias)


def test_batches_do_not_change_what_is_found() -> None:
    module, sample, ranges = prepared()
    one = correct_layers(module, [[sample]], ranges, weight_bits=[8], methods=Methods()).corrections.layers[8]
    parts = [[sample[:7]], [sample[7:]]]
    two = correct_layers(module, parts, ranges, weight_bits=[8], methods=Methods()).corrections.layers[8]
    for key, layer in one.items():
        np.testing.assert_array_equal(layer.weight, two[key].weight)
        other = two[key].bias
        assert layer.bias is not None
        assert other is not None
        # another order of additions may round an activation to the next step
        assert float(np.abs(layer.bias - other).max()) < 1e-3


def test_shared_and_unranged_layers_are_left_alone() -> None:
    shared = nn.Linear(4, 4)
    sample = torch.randn(1, 4)
    module = canonicalize(traced(nn.Sequential(shared, nn.ReLU(), shared), sample).module, (sample,))
    keys = provenance_keys(module.graph).values()
    assert correctable_layers(module, set(keys)) == []
    small, _, ranges = prepared()
    without = {key: ends for key, ends in ranges.items() if "/relu" not in key}
    assert correctable_layers(small, without) == ["stem/conv2d", "head/linear"]


def test_stored_corrections_come_back_equal(tmp_path: Path) -> None:
    layers = {"a/conv2d": LayerWeights(weight=np.ones((2, 1, 3, 3), np.float32), bias=np.arange(2, dtype=np.float32))}
    more = {"b:c/linear": LayerWeights(weight=np.full((3, 4), 0.5, np.float32), bias=None)}
    Corrections(layers={7: layers, 8: layers | more}).save(tmp_path / "corrections.npz")
    found = Corrections.load(tmp_path / "corrections.npz")
    assert {bits: list(named) for bits, named in found.layers.items()} == {
        7: ["a/conv2d"],
        8: ["a/conv2d", "b:c/linear"],
    }
    np.testing.assert_array_equal(found.layers[8]["b:c/linear"].weight, more["b:c/linear"].weight)
    assert found.layers[8]["b:c/linear"].bias is None
    np.testing.assert_array_equal(found.layers[7]["a/conv2d"].bias, [0.0, 1.0])


def test_distance_is_that_computed_by_hand() -> None:
    exact: list[tuple[torch.Tensor, ...]] = [(torch.tensor([[3.0, 0.0], [0.0, 4.0]]),), (torch.tensor([[5.0, 0.0]]),)]
    other: list[tuple[torch.Tensor, ...]] = [(torch.tensor([[3.0, 1.0], [4.0, 3.0]]),), (torch.tensor([[5.0, 0.0]]),)]
    found = distance(exact, other)
    assert found.error == pytest.approx((1 + 16 + 1) / 50)
    assert found.agrees == (True, False, True)
    assert found.agreement == pytest.approx(200 / 3)


def test_a_change_is_kept_only_beyond_chance() -> None:
    four = (True, True, True, True)
    before = Distance(error=1.0, agrees=four)
    assert Distance(error=0.95, agrees=four).is_better_than(before)
    assert not Distance(error=0.96, agrees=four).is_better_than(before)
    assert Distance(error=0.5, agrees=(True, True, True, False)).is_better_than(before)  # one of one: chance
    assert not Distance(error=0.5, agrees=(True, True, False, False)).is_better_than(before)  # 2 > sqrt(2)
    assert Distance(error=0.5).is_better_than(Distance(error=1.0))
