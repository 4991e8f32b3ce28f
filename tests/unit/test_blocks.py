"""Residual blocks that can be left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from distill_case import data, traced
from safetensors.torch import save_file
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.pruning.blocks import find_blocks, least_needed, without_blocks
from edgeport.pruning.structure import WEIGHTS, Structure, load_pruned
from edgeport.stages.context import Context
from edgeport.stages.prune import Prune
from edgeport.types import Model


class Unit(nn.Module):
    """y = relu(x + scale * conv(x)), or a downsampling convolution without a shortcut."""

    def __init__(self, scale: float, *, has_shortcut: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, stride=1 if has_shortcut else 2)
        self.norm = nn.BatchNorm2d(8)
        nn.init.constant_(self.norm.weight, scale)
        self.has_shortcut = has_shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x))
        return torch.relu(x + y) if self.has_shortcut else torch.relu(y)


class Residual(nn.Module):
    """A stem, units of growing weight out of order, and a head with a positional constant that is added."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.units = nn.Sequential(*(Unit(scale) for scale in scales), Unit(1.0, has_shortcut=False))
        self.offset = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.units(self.stem(x)).mean((2, 3)) + self.offset)
        return scores


class PreActivation(nn.Module):
    """Blocks whose sums are read by the next block without an operator between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(torch.relu(x))
        return x


def model_of(network: nn.Module, *shape: int) -> Model:
    torch.manual_seed(0)
    return traced(network.eval(), (shape,))


def batches(*shape: int) -> list[list[torch.Tensor]]:
    return [[torch.randn(8, *shape, generator=torch.Generator().manual_seed(seed))] for seed in range(2)]


def test_blocks_are_what_is_added_to_the_value_it_starts_from() -> None:
    model = model_of(Residual(1.0, 0.1, 2.0), 3, 12, 12)
    found = find_blocks(model.module, model.example_inputs)
    assert [block.name for block in found] == ["units.0", "units.1", "units.2"]  # neither the last unit nor the offset
    assert all("conv.weight" in " ".join(block.layers) for block in found)


@pytest.mark.parametrize("chosen", [(0,), (1, 2), (2, 0, 1)])
def test_what_is_left_computes_what_the_network_without_these_blocks_does(chosen: tuple[int, ...]) -> None:
    network = Residual(1.0, 0.1, 2.0).eval()
    model = model_of(network, 3, 12, 12)
    keys = [block.key for block in find_blocks(model.module, model.example_inputs)]
    shorter = without_blocks(model.module, model.example_inputs, [keys[index] for index in chosen])
    network.units = nn.Sequential(*(nn.ReLU() if index in chosen else unit for index, unit in enumerate(network.units)))
    (x,) = batches(3, 12, 12)[0]
    with torch.no_grad():
        assert torch.allclose(shorter(x), network(x), atol=1e-6)
    names = {name for name, _ in shorter.named_parameters()}
    assert not any(name.startswith(f"units.{index}.") for name in names for index in chosen)
    assert "head.weight" in names


def test_sums_that_feed_each_other_are_taken_out_one_by_one_or_together() -> None:
    network = PreActivation().eval()
    model = model_of(network, 6)
    keys = [block.key for block in find_blocks(model.module, model.example_inputs)]
    assert len(keys) == 3
    (x,) = batches(6)[0]
    with torch.no_grad():
        for gone in ([0], [1], [1, 0], [0, 2]):
            wanted = x
            for index, layer in enumerate(network.layers):
                wanted = wanted if index in gone else wanted + layer(torch.relu(wanted))
            shorter = without_blocks(model.module, model.example_inputs, [keys[index] for index in gone])
            assert torch.allclose(shorter(x), wanted, atol=1e-6)


def test_the_block_that_does_least_goes_first() -> None:
    model = model_of(Residual(1.0, 0.01, 0.1), 3, 12, 12)
    names = {block.key: block.name for block in find_blocks(model.module, model.example_inputs)}
    chosen = least_needed(model.module, model.example_inputs, batches(3, 12, 12), 2)
    assert [names[key] for key in chosen] == ["units.1", "units.2"]
    first, second = chosen.values()
    assert 0 < first < second


def test_an_unknown_block_is_refused_with_those_that_exist() -> None:
    model = model_of(PreActivation(), 6)
    with pytest.raises(ValueError, match=r"no residual block 'x/add'; there are /add, /add_1, /add_2"):
        without_blocks(model.module, model.example_inputs, ["x/add"])


def test_stage_leaves_out_blocks_then_cuts_filters_and_the_folder_loads_again(tmp_path: Path) -> None:
    network = Residual(1.0, 0.01, 2.0)
    model = model_of(network, 3, 12, 12)
    calibrate = data(tmp_path / "data", np.random.default_rng(0).standard_normal((32, 3, 12, 12)).astype(np.float32))
    stage = Prune(ratio=0.5, blocks=1, channel_multiple=2)
    pruned, metrics = stage(model, Context(calibrate=calibrate))
    assert [block["block"] for block in metrics["blocks"]] == ["units.1/add"]  # type: ignore[attr-defined]  # rows
    structure = msgspec.convert(metrics["structure"], Structure)
    assert structure.removed == ("units.1/add",)
    structure.save(tmp_path)
    save_file({name: value.clone() for name, value in pruned.module.state_dict().items()}, tmp_path / WEIGHTS)
    loaded = load_pruned(Residual(1.0, 0.01, 2.0), tmp_path)
    (x,) = batches(3, 12, 12)[0]
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned.module(x))
    before, after = metrics["macs_before"], metrics["macs_after"]
    assert after < 0.55 * before  # type: ignore[operator]  # numbers


def test_blocks_alone_may_be_left_out_and_more_than_there_are_may_not(tmp_path: Path) -> None:
    model = model_of(Residual(1.0, 0.1), 3, 12, 12)
    calibrate = data(tmp_path, np.random.default_rng(0).standard_normal((32, 3, 12, 12)).astype(np.float32))
    pruned, metrics = Prune(ratio=0.0, blocks=2)(model, Context(calibrate=calibrate))
    assert not find_blocks(pruned.module, pruned.example_inputs)
    assert len(metrics["blocks"]) == 2  # type: ignore[arg-type]  # rows
    with pytest.raises(StageError, match="layer:3, but the network has 2 residual blocks"):
        Prune(ratio=0.0, blocks=3)(model, Context(calibrate=calibrate))
    with pytest.raises(ConfigError, match="layer needs samples"):
        Prune(ratio=0.0, blocks=1)(model, Context())


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(self.layer(x), x, alpha=2)


def test_a_sum_that_weighs_its_operands_is_no_block() -> None:
    model = model_of(Weighted(), 6)
    assert find_blocks(model.module, model.example_inputs) == ()
