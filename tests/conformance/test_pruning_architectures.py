"""Filter pruning on the architectures that people use: `architectures.toml` lists them.

The small ones run always; EDGEPORT_ARCHITECTURES=all runs every one (six minutes on one core), and
EDGEPORT_ARCHITECTURES=NAME,NAME those.
"""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm_networks import Architecture, architectures, create, is_installed
from torch import nn
from torch.fx import GraphModule

import edgeport
from edgeport.graph.network import Network
from edgeport.pruning.compensate import Compensation
from edgeport.pruning.elimination import elimination_scores
from edgeport.pruning.groups import Groups, find_groups
from edgeport.pruning.masking import mask_channels
from edgeport.pruning.structure import describe
from edgeport.pruning.surgery import prune_channels
from edgeport.stages.trace import Trace
from edgeport.types import TensorSpec

# In double precision only the order of summation differs: a million operations, each 1.1e-16 of the largest value.
RELATIVE = 1e-9
SCORED = 4  # groups whose scores are computed, the narrowest ones
pytestmark = pytest.mark.skipif(not is_installed(), reason="timm is not installed: pip install 'edgeport[test]'")


def chosen() -> list[Architecture]:
    wanted = os.environ.get("EDGEPORT_ARCHITECTURES", "small")
    if wanted in ("small", "all"):
        return [entry for entry in architectures() if entry.small or wanted == "all"]
    return [entry for entry in architectures() if entry.name in wanted.split(",")]


def randomised(network: nn.Module) -> nn.Module:
    """Give norms statistics, signed scales and shifts of their own; fresh ones hide what a cut channel leaves."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            fan_in = max(1, weight[0].numel()) if weight.dim() > 1 else 1
            weight.copy_(drawn * (2.0 / fan_in) ** 0.5)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.randn(value.shape, generator=generator).abs())
    return network


@cache
def case(name: str) -> tuple[GraphModule, Groups, dict[str, tuple[int, ...]]]:
    """Return the traced network, its groups and a random half of every group."""
    entry = next(entry for entry in architectures() if entry.name == name)
    network = Network(name=name, module=randomised(create(entry)), example_inputs=None, fingerprint="")
    model, _ = Trace()(network, entry.inputs(1))
    module = model.module
    groups = find_groups(module, entry.inputs(1))
    rng = np.random.default_rng(0)
    kept = {
        group.name: tuple(sorted(rng.permutation(group.channels)[: max(1, group.channels // 2)].tolist()))
        for group in groups.groups
    }
    return module, groups, kept


def reached(module: GraphModule, groups: Groups) -> float:
    """Return the share of parameter values in rows or columns that a group may cut."""
    free: NDArray[np.bool_] = np.zeros(groups.classes.shape[0], dtype=bool)
    for group in groups.groups:
        free[group.classes] = True
    used = {str(node.target): groups.axes.get(node.name) for node in module.graph.nodes if node.op == "get_attr"}
    stays = 0
    for path, value in module.named_parameters():
        axes = used.get(path) or (None,) * value.dim()
        sizes = [
            size if axis is None else int((~free[groups.classes[axis]]).sum())
            for size, axis in zip(value.shape, axes, strict=True)
        ]
        stays += int(np.prod(sizes))
    return 1 - stays / sum(value.numel() for value in module.parameters())


def doubled(module: GraphModule) -> GraphModule:
    """Return a copy that computes in double precision."""
    result = copy.deepcopy(module).double()
    for part in [part for part in result.modules() if isinstance(part, GraphModule)]:  # a region of autocast is one
        for node in list(part.graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                part.graph.erase_node(node)
                continue
            node.args = tuple(torch.float64 if value is torch.float32 else value for value in node.args)
            node.kwargs = {
                key: torch.float64 if value is torch.float32 else value for key, value in node.kwargs.items()
            }
        part.recompile()
    return result


def output(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(*inputs)
    return result


@pytest.mark.parametrize("name", [entry.name for entry in chosen()])
def test_pruned_equals_masked(name: str) -> None:
    entry = next(entry for entry in architectures() if entry.name == name)
    module, groups, kept = case(name)
    double = doubled(module)
    inputs = (entry.inputs(2)[0].double(),)

    pruned, masked = (output(cut(double, groups, kept), inputs) for cut in (prune_channels, mask_channels))

    largest = float(masked.abs().max())
    assert float((pruned - masked).abs().max()) <= RELATIVE * largest
    assert float((masked[0] - masked[1]).abs().max()) > 1e-6 * largest  # it still looks at its input
    assert float((masked - output(double, inputs)).abs().max()) > 1e-3 * largest  # and half of it is gone


@pytest.mark.parametrize("name", [entry.name for entry in chosen()])
def test_layers_that_read_cut_channels_are_repaired(name: str) -> None:
    entry = next(entry for entry in architectures() if entry.name == name)
    module, groups, kept = case(name)
    compensation = Compensation(module, groups, [entry.inputs(4)])
    pruned = prune_channels(module, groups, kept)

    assert compensation.apply(pruned, kept) > 0

    assert bool(output(pruned, entry.inputs(2)).isfinite().all())
    narrow_first = sorted(groups.groups, key=lambda group: group.channels)
    read = [(group, found) for group in narrow_first if (found := compensation.readings(group)) is not None]
    assert read
    for group, readings in read[:SCORED]:
        scores = elimination_scores(readings, group.channels)
        assert scores.shape == (group.channels,)
        assert bool(np.isfinite(scores).all())


@pytest.mark.parametrize("name", [entry.name for entry in chosen()])
def test_cuts_reach_the_share_of_parameters_that_they_did(name: str) -> None:
    module, groups, _ = case(name)

    assert reached(module, groups) >= next(entry.least_share for entry in architectures() if entry.name == name)


@pytest.mark.parametrize("name", [entry.name for entry in chosen()])
def test_layers_left_whole_name_operator_and_layer_or_the_output(name: str) -> None:
    _, groups, _ = case(name)

    for sentence in groups.left_whole:
        assert sentence.startswith("left whole: ")
        assert "layer '" in sentence
        assert "because operator " in sentence or sentence.endswith("because its channels are a network output")


@pytest.mark.parametrize("name", [entry.name for entry in chosen()])
def test_reloaded_without_pickle_gives_the_same_bits_and_trains(name: str, tmp_path: Path) -> None:
    entry = next(entry for entry in architectures() if entry.name == name)
    module, groups, kept = case(name)
    pruned = prune_channels(module, groups, kept)
    describe(groups, kept, [TensorSpec(name="x", shape=(3, entry.size, entry.size), dtype="float32")]).save(tmp_path)
    save_file(
        {key: value.detach().clone() for key, value in pruned.state_dict().items()}, tmp_path / "model.safetensors"
    )

    loaded = edgeport.load_pruned(lambda: create(entry), tmp_path)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "structure.json"]
    inputs = entry.inputs(2)
    before = output(loaded, inputs)
    assert torch.equal(before, output(pruned, inputs))
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1e-3)
    result = loaded(*inputs)
    (result / result.detach().abs().max()).square().mean().backward()
    trained = [value for value in loaded.parameters() if value.grad is not None]
    torch.nn.utils.clip_grad_norm_(trained, 1.0, error_if_nonfinite=True)
    optimizer.step()
    assert len(trained) > 0.9 * len(list(loaded.parameters()))
    assert not torch.equal(output(loaded, inputs), before)
